//! `scenerank explore`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc;

use clap::Args;
use scenerank::data::Split;
use scenerank::explore::{Event, explore};
use scenerank::{Error, Result};

use super::run_arguments::RunArguments;

const EXAMPLES: &str = "\
Examples:
  scenerank explore runs/paper
  scenerank explore runs/paper --split all --port 0
  ssh -L 7411:localhost:7411 machine     # then open http://localhost:7411/ here

Ctrl-C ends it.";

/// Serve a small local web page: search by a graph or an image, delete edges, see ranks change.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ExploreArguments {
    #[command(flatten)]
    run: RunArguments,
    /// Which images to search.
    #[arg(long, value_enum, default_value_t = Split::Test)]
    split: Split,
    /// The port; 0 for any that is free.
    #[arg(long, default_value_t = 7411)]
    port: u16,
    /// The address to listen at.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Let other machines in: --host may be an address that is not this machine's loopback. Anyone who reaches it can
    /// read the collection; there is no password.
    #[arg(long)]
    allow_remote: bool,
}

impl ExploreArguments {
    pub fn run(self) -> Result<()> {
        if !self.host.is_loopback() {
            if !self.allow_remote {
                return Err(Error::argument(
                    "--host",
                    format!("other machines can reach {}", self.host),
                    "use 127.0.0.1 and a tunnel, or add --allow-remote",
                ));
            }
            tracing::warn!("anyone who reaches {} can read this collection", self.host);
        }
        let address = SocketAddr::new(self.host, self.port);
        let listener = TcpListener::bind(address).map_err(|error| {
            Error::argument(
                "--port",
                format!("cannot listen at {address}: {error}"),
                "choose another, such as 0",
            )
        })?;
        let run = self.run.open()?;
        let (sender, events) = mpsc::channel();
        let stop = sender.clone();
        explore(run, self.split, listener, (sender, events), |address| {
            // From now on Ctrl-C is how it ends; before, it merely ended early.
            ctrlc::set_handler(move || {
                let _ = stop.send(Event::Stop);
            })
            .map_err(|error| {
                Error::argument("Ctrl-C", error.to_string(), "run it in a process of its own")
            })?;
            println!("http://{address}/");
            Ok(())
        })
    }
}

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
  ssh -L 7411:localhost:7411 machine   # then open http://localhost:7411/ here

The page uses a JSON API, which other programs may use too:
  GET  /api/vocabulary              names of objects and predicates, example queries
  GET  /api/image/ID                captions and graph of an image
  GET  /api/image/ID?remove=12      the same, without 12 random edges
  GET  /api/image/ID/ranks          its rank without 0, 1, 2... random edges
  GET  /api/images?caption=WORDS    images that have these words in a caption
  GET  /api/random                  id of a random image
  GET  /api/sentence?text=WORDS     graph that a sentence describes
  POST /api/search                  nearest images, for a body such as
       {\"graph\": [[\"man\", \"throwing\", \"frisbee\"]], \"target\": 2317468,
        \"having\": [\"dog\"], \"k\": 12}
All fields of a search but graph are optional. The library's documentation of the
module explore describes the answers. Press Ctrl-C to end the server.";

/// Serve a local web page to search by a graph or an image, delete edges and watch the ranks change.
///
/// The page and its JSON API answer only from the run's data; no request can name a file. Other machines cannot
/// connect unless --allow-remote is given.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ExploreArguments {
    #[command(flatten)]
    run: RunArguments,
    /// Images to search.
    #[arg(long, value_enum, default_value_t = Split::Test)]
    split: Split,
    /// Port to listen on; 0 selects a free port.
    #[arg(long, default_value_t = 7411)]
    port: u16,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Allow a --host that other machines can reach, such as 0.0.0.0. There is no password: anyone who can
    /// connect can read the collection.
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
        let ready = move |address: SocketAddr| {
            // From here on, Ctrl-C ends the server; before, it ends the program at once.
            ctrlc::set_handler(move || {
                let _ = stop.send(Event::Stop);
            })
            .map_err(|error| {
                Error::argument("Ctrl-C", error.to_string(), "run it in a process of its own")
            })?;
            println!("http://{address}/");
            Ok(())
        };
        explore(run, self.split, listener, (sender, events), Box::new(ready))
    }
}

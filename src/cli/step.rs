use std::path::PathBuf;

use clap::Args;
use scenerank::Result;

/// Run one training step on the inputs in a file and write everything that it computes.
#[derive(Args)]
#[command(after_help = "Examples:
  scenerank step in.safetensors out.safetensors
  scenerank step in.safetensors out.safetensors \\
      --device reference --precision fp64")]
pub struct StepArguments {
    /// File with inputs: param.*, batch.* and the configuration in the metadata.
    input: PathBuf,
    /// File to write: inputs, embedding, loss, grad.*, next.* and mask.*.
    output: PathBuf,
    #[command(flatten)]
    device: super::DeviceArguments,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl StepArguments {
    pub fn run(self) -> Result<()> {
        let (device, arithmetic) = (self.device.device, self.device.arithmetic());
        let loss = scenerank::step::run_step_file(&self.input, &self.output, device, arithmetic)?;
        match self.json {
            true => println!(
                "{}",
                serde_json::json!({ "loss": loss, "output": self.output.display().to_string() })
            ),
            false => println!("loss {loss:.6}; wrote {}", self.output.display()),
        }
        Ok(())
    }
}

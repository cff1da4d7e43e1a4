//! Command-line options of `grid-worker bench`.

use super::measure::Shape;
use crate::{
    inference::KvType,
    worker::{device::DeviceChoice, options::Quantity, source::ModelOptions},
};

/// How the result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchFormat {
    Table,
    Json,
}

/// `grid-worker bench`: measures a model on this machine.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchOptions {
    #[command(flatten)]
    pub source: ModelOptions,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: BenchFormat,
    /// What computes text models: auto (a CUDA device where there is one), cpu, cuda, cuda:1 …. A GPU is not exact to the bit.
    #[arg(long, env = "GRID_DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Compute threads. Default: the CPU limit of this container, or the processor's count.
    #[arg(long, env = "GRID_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Memory for the KV cache, in bytes or as 512Mi, 2Gi.
    #[arg(long, env = "GRID_KV_BUDGET", default_value = "1Gi")]
    pub kv_budget: Quantity,
    /// How the KV cache stores numbers: f32, or f16 in half the memory. Answers differ.
    #[arg(long, env = "GRID_KV_TYPE", default_value = "f32")]
    pub kv_type: KvType,
    /// Answers at a time, beside one.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub sequences: u32,
    /// Prompt tokens of a request.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub prompt_tokens: u32,
    /// Answer tokens of a request.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=65536))]
    pub output_tokens: u32,
    /// Times that each figure is measured; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub runs: u16,
    #[command(flatten)]
    pub prices: Prices,
}

/// At what prices to say what the machine could earn.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Prices {
    /// XDC that the network pays for 10⁹ units: what an epoch pays for work, divided by the units of all its nodes.
    #[arg(long, value_name = "XDC", value_parser = price)]
    pub price_per_billion_units: Option<f64>,
    /// What an XDC is worth in your currency.
    #[arg(long, value_name = "MONEY", value_parser = price)]
    pub price_xdc: Option<f64>,
    /// What a kilowatt hour costs in your currency.
    #[arg(long, value_name = "MONEY", value_parser = price, requires = "watts")]
    pub price_kwh: Option<f64>,
    /// What the machine draws under load.
    #[arg(long, value_parser = price)]
    pub watts: Option<f64>,
    /// How much of the day it has work, in percent.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub busy_percent: u8,
}

impl BenchOptions {
    pub(super) fn shape(&self) -> Shape {
        Shape { prompt_tokens: self.prompt_tokens, output_tokens: self.output_tokens, sequences: self.sequences }
    }
}

fn price(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if number.is_finite() && number >= 0.0 { Ok(number) } else { Err(format!("{text:?} is no price")) }
}

//! `--device`: what models are computed on.

use std::{fmt, str::FromStr};

use tracing::{info, warn};

use crate::inference::{NoDevice, Processor};

/// What text models are computed on. Embeddings are always made by the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first CUDA device where there is one, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// The CUDA device of that number.
    Cuda(u16),
}

/// A device that was asked for by name and is not there.
#[derive(Debug, thiserror::Error)]
#[error("--device {choice}: {source}; `--device cpu` computes on the CPU")]
pub struct DeviceError {
    choice: DeviceChoice,
    source: NoDevice,
}

impl DeviceChoice {
    /// Opens the device. With [`DeviceChoice::Auto`] what is missing is logged, and the CPU computes.
    pub fn open(self) -> Result<Processor, DeviceError> {
        let opened = match self {
            Self::Cpu => return Ok(Processor::Cpu),
            Self::Auto => Processor::cuda(0),
            Self::Cuda(ordinal) => Processor::cuda(ordinal.into()),
        };
        match (opened, self) {
            (Ok(processor), choice) => {
                info!(%choice, "computing on a CUDA device, which is not exact to the bit");
                Ok(processor)
            }
            (Err(NoDevice::NotBuilt), Self::Auto) => {
                info!("computing on the CPU: this program was built without CUDA");
                Ok(Processor::Cpu)
            }
            (Err(error), Self::Auto) => {
                warn!(%error, "computing on the CPU");
                Ok(Processor::Cpu)
            }
            (Err(source), choice) => Err(DeviceError { choice, source }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let ordinal = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                ordinal.map(Self::Cuda).ok_or_else(|| format!("{text:?} is not one of auto, cpu, cuda, cuda:1 …"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_people_write_them() {
        let known = [("auto", DeviceChoice::Auto), ("cpu", DeviceChoice::Cpu), ("cuda:3", DeviceChoice::Cuda(3))];
        for (text, choice) in known {
            assert_eq!((text.parse(), choice.to_string()), (Ok(choice), text.to_owned()));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for bad in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            assert!(bad.parse::<DeviceChoice>().unwrap_err().contains("cuda:1"), "{bad}");
        }
    }

    #[test]
    fn a_device_that_nobody_named_may_be_missing() {
        assert!(DeviceChoice::Auto.open().is_ok());
        assert!(matches!(DeviceChoice::Cpu.open(), Ok(Processor::Cpu)));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_named_device_that_cannot_be_is_an_error_with_a_cure() {
        let error = DeviceChoice::Cuda(1).open().unwrap_err().to_string();
        for words in ["--device cuda:1", "built without CUDA", "--device cpu"] {
            assert!(error.contains(words), "{error}");
        }
    }
}

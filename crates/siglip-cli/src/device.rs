//! What `--device` says.

use std::str::FromStr;

/// Where to compute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// The best there is.
    Auto,
    /// The processor.
    Cpu,
    /// NVIDIA cards, counted from 0: at least one, each once, in the order in which they were named.
    Cuda(Vec<usize>),
    /// All NVIDIA cards that can be used.
    AllCards,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Device, String> {
        let wrong = || {
            "auto, cpu, cuda, cuda:N, several as in cuda:0,1, or cuda:all is needed, with N a card's number"
                .to_owned()
        };
        let cards = match text {
            "auto" => return Ok(Device::Auto),
            "cpu" => return Ok(Device::Cpu),
            "cuda" => return Ok(Device::Cuda(vec![0])),
            "cuda:all" => return Ok(Device::AllCards),
            _ => text.strip_prefix("cuda:").ok_or_else(wrong)?,
        };
        let cards =
            cards.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>().map_err(|_| wrong())?;
        match cards
            .iter()
            .enumerate()
            .find(|(index, card)| cards.iter().take(*index).any(|other| other == *card))
        {
            Some((_, card)) => Err(format!("card {card} is named twice")),
            None => Ok(Device::Cuda(cards)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_by_name_and_number() {
        assert_eq!("cuda".parse(), Ok(Device::Cuda(vec![0])));
        assert_eq!("cuda:3".parse(), Ok(Device::Cuda(vec![3])));
        assert_eq!("cuda:2,0".parse(), Ok(Device::Cuda(vec![2, 0])));
        assert_eq!("cuda:all".parse(), Ok(Device::AllCards));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:0,", "cuda:0,all", "0,1", "CPU"] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
        assert_eq!("cuda:1,0,1".parse::<Device>(), Err("card 1 is named twice".to_owned()));
    }
}

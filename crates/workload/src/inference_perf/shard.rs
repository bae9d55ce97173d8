//! Shares of one run: one for each of several machines. All shares together are exactly the whole.

use std::str::FromStr;

/// A share of the whole: the `index`th of `count`, from 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shard {
    /// From 0.
    pub index: u32,
    /// At least 1.
    pub count: u32,
}

/// It is not `I/N`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a share is I/N, with I from 1 to N, as in 2/4")]
pub struct ShardError;

impl Shard {
    /// The whole.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// This shard's share of `number` things that are dealt out in turn.
    pub fn share(self, number: u64) -> u64 {
        let (index, count) = (u64::from(self.index), u64::from(self.count));
        number / count + u64::from(number % count > index)
    }

    /// This shard's part of a rate.
    pub fn rate(self, rate: f64) -> f64 {
        rate / f64::from(self.count)
    }

    /// The number among all things of thing `number` of this shard.
    pub fn number(self, number: u64) -> u64 {
        number * u64::from(self.count) + u64::from(self.index)
    }

    /// Whether thing `number` is this shard's.
    pub(super) fn has(self, number: u64) -> bool {
        number % u64::from(self.count) == u64::from(self.index)
    }
}

impl FromStr for Shard {
    type Err = ShardError;

    /// `I/N`, with I from 1.
    fn from_str(text: &str) -> Result<Self, ShardError> {
        let (index, count) = text.split_once('/').ok_or(ShardError)?;
        match (index.parse(), count.parse()) {
            (Ok(index), Ok(count)) if (1..=count).contains(&index) => Ok(Self { index: index - 1, count }),
            _ => Err(ShardError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_the_whole() {
        let shards: Vec<Shard> = (0..3).map(|index| Shard { index, count: 3 }).collect();
        assert_eq!(shards.iter().map(|shard| shard.share(11)).collect::<Vec<_>>(), [4, 4, 3]);
        let mut numbers: Vec<u64> =
            shards.iter().flat_map(|shard| (0..shard.share(11)).map(|own| shard.number(own))).collect();
        assert!(numbers.iter().all(|number| shards[(number % 3) as usize].has(*number)));
        numbers.sort_unstable();
        assert_eq!(numbers, (0..11).collect::<Vec<_>>());
    }

    #[test]
    fn it_is_written_from_one() {
        assert_eq!("2/4".parse(), Ok(Shard { index: 1, count: 4 }));
        for wrong in ["0/4", "5/4", "2", "2/", "a/b", "1/0"] {
            assert_eq!(wrong.parse::<Shard>(), Err(ShardError), "{wrong}");
        }
    }
}

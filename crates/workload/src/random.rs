//! Random streams: one for each purpose, all from the run's seed.
//!
//! Consumers never share a stream, so that drawing one more length does not move a send time.

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use xxhash_rust::xxh3::xxh3_64;

/// The stream for `purpose` in a run with this seed. The same on every machine and in every version.
pub(crate) fn stream(seed: u64, purpose: &str) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&xxh3_64(purpose.as_bytes()).to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

//! The simulated inference engine: a pure scheduler core and an HTTP face over it.

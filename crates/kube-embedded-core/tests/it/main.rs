//! Parts that need an API: they run against the real API server, in process.

mod lease;

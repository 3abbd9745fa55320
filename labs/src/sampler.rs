//! The load generator. It opens a new connection for every request, because a load balancer chooses a
//! pod per connection: only then is a split a binomial sample. It speaks plain TCP (or TLS) and a small
//! strict HTTP/1.1, since a pooling client would reuse connections. Only a [`Session`] keeps its
//! connection, on purpose.

mod background;
mod deadline;
mod generator;
mod http1;
mod response;
mod sample;
mod session;
mod target;
mod tls;
mod user;
mod visit;

pub(crate) use background::BackgroundTraffic;
pub use generator::Sampler;
pub use response::{Failure, Reply, Response};
pub use sample::{Counts, Observation, Sample};
pub use session::Session;
pub use tls::{Certificate, Tls};
pub(crate) use user::User;
pub(crate) use visit::{Visit, visit};

#[cfg(test)]
mod tests;

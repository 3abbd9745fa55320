//! HTTP: requests (path, query, media types, bodies) and responses (objects, lists, Tables, `Status`).

pub(crate) mod body;
pub(crate) mod chunks;
pub(crate) mod decode;
pub(crate) mod delete_options;
pub(crate) mod duplicates;
pub(crate) mod encode;
pub(crate) mod list_options;
pub(crate) mod negotiation;
pub(crate) mod path;
pub(crate) mod protobuf;
pub(crate) mod query;
pub(crate) mod request;
pub(crate) mod selector;
pub(crate) mod status;

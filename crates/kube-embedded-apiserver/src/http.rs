//! HTTP: paths and queries, media types, bodies, `Status` and protobuf.

pub(crate) mod body;
pub(crate) mod decode;
pub(crate) mod list_options;
pub(crate) mod output;
pub(crate) mod path;
pub(crate) mod protobuf;
pub(crate) mod selector;
pub(crate) mod status;

//! A request as the handlers see it, built once by the router.

use crate::{
    authentication::user::User,
    http::{
        negotiation::{self, Form},
        path::Target,
        query::{FieldValidation, Query},
        status::ApiResult,
    },
};
use bytes::Bytes;
use http::{HeaderMap, Method, header, request::Parts};
use std::sync::Arc;

/// A request and its target: an object or a collection, unless `T` is something else.
pub(crate) struct Request<'a, T = Target<'a>> {
    pub(crate) parts: &'a Parts,
    pub(crate) query: Query,
    pub(crate) body: &'a Bytes,
    pub(crate) user: &'a User,
    pub(crate) target: T,
}

impl<'a> Request<'a, ()> {
    /// Parses what all requests have in common.
    pub(crate) fn new(parts: &'a Parts, body: &'a Bytes) -> Self {
        Self {
            query: Query::parse(parts.uri.query()),
            user: parts.extensions.get::<Arc<User>>().unwrap_or(User::admin()),
            parts,
            body,
            target: (),
        }
    }

    /// Returns the request with its target.
    pub(crate) fn with_target<T>(self, target: T) -> Request<'a, T> {
        let Self { parts, query, body, user, target: () } = self;
        Request { parts, query, body, user, target }
    }
}

impl<'a, T> Request<'a, T> {
    pub(crate) fn method(&self) -> &'a Method {
        &self.parts.method
    }

    pub(crate) fn headers(&self) -> &'a HeaderMap {
        &self.parts.headers
    }

    /// Returns true if the request changes nothing.
    pub(crate) fn is_read(&self) -> bool {
        matches!(*self.method(), Method::GET | Method::HEAD)
    }

    /// Returns the media type of the body, without parameters.
    pub(crate) fn content_type(&self) -> &'a str {
        let value = self.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().split(';').next().unwrap_or_default().trim()
    }

    /// Returns the form in which the client accepts the object or list.
    pub(crate) fn form(&self) -> ApiResult<Form> {
        negotiation::negotiate(self.headers(), self.query.get("includeObject"), true)
    }

    /// Checks that the client accepts a response that cannot be a Table: one of a review, or of most subresources.
    pub(crate) fn check_accepts_object(&self) -> ApiResult<()> {
        negotiation::negotiate(self.headers(), None, false).map(drop)
    }

    /// Parses the options of a write.
    pub(crate) fn write_options(&self) -> ApiResult<WriteOptions> {
        let kind = match *self.method() {
            Method::PUT => "UpdateOptions",
            Method::PATCH => "PatchOptions",
            _ => "CreateOptions",
        };
        let named_manager = self.query.field_manager(kind)?.map(str::to_owned);
        let manager = named_manager.clone().unwrap_or_else(|| {
            let name = self.user_agent().split('/').next().unwrap_or_default();
            if name.is_empty() { "unknown".into() } else { name.to_owned() }
        });
        Ok(WriteOptions {
            dry_run: self.query.dry_run(kind)?,
            validation: self.query.field_validation(kind)?,
            manager,
            named_manager,
        })
    }

    fn user_agent(&self) -> &'a str {
        let agent = self.headers().get(header::USER_AGENT);
        agent.and_then(|agent| agent.to_str().ok()).unwrap_or_default()
    }
}

/// `CreateOptions`, `UpdateOptions`, `PatchOptions`.
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    /// The manager of the fields that the write sets.
    pub(crate) manager: String,
    /// The manager, if the client named one.
    pub(crate) named_manager: Option<String>,
}

impl WriteOptions {
    /// The options of a write that the server makes by itself.
    pub(crate) fn internal(manager: &str) -> Self {
        Self {
            dry_run: false,
            validation: FieldValidation::Ignore,
            manager: manager.to_owned(),
            named_manager: None,
        }
    }
}

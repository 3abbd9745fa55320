//! A request as the handlers see it, built once by the router.

use crate::{
    authentication::user::User,
    http::{
        negotiation::{self, Converts, Form},
        path::Target,
        query::{FieldValidation, Query},
        status::{ApiError, ApiResult},
    },
    validation::field_error::{forbidden, required},
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
        self.form_of(Converts::Tables)
    }

    /// Returns the form in which the client accepts the object of an endpoint.
    pub(crate) fn form_of(&self, converts: Converts) -> ApiResult<Form> {
        negotiation::negotiate(self.headers(), self.query.get("includeObject"), converts)
    }

    /// Returns true for server-side apply.
    fn is_apply(&self) -> bool {
        *self.method() == Method::PATCH && self.content_type() == "application/apply-patch+yaml"
    }

    /// Parses the options of a write, and returns all errors at once.
    pub(crate) fn write_options(&self) -> ApiResult<WriteOptions> {
        let kind = match *self.method() {
            Method::PUT => "UpdateOptions",
            Method::PATCH => "PatchOptions",
            _ => "CreateOptions",
        };
        let query = &self.query;
        let mut errors = Vec::new();
        if self.is_apply() && query.get("fieldManager").is_none() {
            errors.push(required("fieldManager", "is required for apply patch"));
        }
        if *self.method() == Method::PATCH && !self.is_apply() && query.has("force") {
            errors.push(forbidden("force", "may not be specified for non-apply patch"));
        }
        let manager = query.field_manager().map_err(|error| errors.push(error)).ok().flatten();
        let dry_run = query.dry_run().map_err(|error| errors.push(error));
        let validation = query.field_validation().map_err(|error| errors.push(error));
        let (Ok(dry_run), Ok(validation), true) = (dry_run, validation, errors.is_empty()) else {
            return Err(ApiError::invalid_options(kind, &errors));
        };
        let named_manager = manager.map(str::to_owned);
        let manager =
            named_manager.clone().unwrap_or_else(|| match self.user_agent().split('/').next() {
                None | Some("") => "unknown".into(),
                Some(name) => name.to_owned(),
            });
        Ok(WriteOptions { dry_run, validation, manager, named_manager })
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

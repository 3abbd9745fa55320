//! Discovery of the issuer of service account tokens, by which others verify them (OpenID Connect Discovery 1.0).

use crate::{
    authentication::ISSUER,
    http::{
        body::{Body, respond},
        status::{ApiError, ApiResult},
    },
    state::ServerState,
};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

/// `GET /.well-known/openid-configuration`.
pub(crate) fn configuration() -> Response<Body> {
    let configuration = json!({
        "issuer": ISSUER,
        // By the name of the API server in the cluster: pods do not reach its loopback address.
        "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    cacheable("application/json", &configuration)
}

/// `GET /openid/v1/jwks`.
pub(crate) fn key_set(state: &ServerState) -> ApiResult<Response<Body>> {
    let keys = state.signer.key_set();
    let keys = keys.ok_or_else(|| ApiError::internal("there is no key to sign tokens with"))?;
    Ok(cacheable("application/jwk-set+json", &keys))
}

fn cacheable(media_type: &'static str, value: &Value) -> Response<Body> {
    let mut response = respond(StatusCode::OK, media_type, Bytes::from(value.to_string()));
    let hour = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(header::CACHE_CONTROL, hour);
    response
}

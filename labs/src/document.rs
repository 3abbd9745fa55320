//! The document of a page, with its style sheet in it: the first paint waits for nothing else.

use k8s_openapi::ByteString;
use sha2::{Digest as _, Sha256};

/// What the document has in place of its style sheet.
const PLACE: &str = "<style></style>";

/// A document, and the policy that it is served with.
pub(crate) struct Document {
    pub(crate) html: String,
    /// Loads nothing but files of the same server, permits no other style, and no other site to frame the page.
    pub(crate) policy: String,
}

impl Document {
    pub(crate) fn new(html: &str, style: &str) -> Self {
        // Kubernetes' bytes are Base64 in JSON. A string has a representation.
        let digest = serde_json::to_value(ByteString(Sha256::digest(style).to_vec()));
        let digest = digest.ok().and_then(|digest| Some(digest.as_str()?.to_owned()));
        Self {
            html: html.replacen(PLACE, &format!("<style>{style}</style>"), 1),
            policy: format!(
                "default-src 'self'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
                digest.unwrap_or_default()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn style_is_in_the_document_and_its_digest_in_the_policy() {
        let page = Document::new("<head><style></style></head>", "p { margin: 0 }");
        assert_eq!(page.html, "<head><style>p { margin: 0 }</style></head>");
        // `printf 'p { margin: 0 }' | openssl dgst -sha256 -binary | base64`
        let digest = "7IWhgxoOGTB5NQzjGk9OPt0FwhVeBvZGoWgF9xLLh8c=";
        assert!(page.policy.contains(&format!("style-src 'sha256-{digest}';")), "{}", page.policy);
    }
}

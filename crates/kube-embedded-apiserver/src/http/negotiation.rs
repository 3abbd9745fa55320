//! Content negotiation: the encoding of a response, and the form of the objects in it (kube-apiserver's
//! `endpoints/handlers/negotiation`).

use crate::{
    http::status::{ApiError, ApiResult},
    resources::resource_type::ResourceType,
};
use http::{HeaderMap, header};

/// The form of the objects in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    /// `as=PartialObjectMetadata`: of one object, or of each in a watch.
    Metadata(MetaVersion),
    /// `as=PartialObjectMetadataList`.
    MetadataList(MetaVersion),
    Table(Include, MetaVersion),
}

/// The version of `meta.k8s.io` that a client converts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetaVersion {
    V1,
    V1Beta1,
}

impl MetaVersion {
    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// The part of an object that goes with its row in a Table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    Metadata,
    Object,
}

/// What an endpoint can convert its objects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Converts {
    /// Discovery and errors.
    Nothing,
    /// Reviews have no columns.
    Metadata,
    Tables,
}

impl Form {
    /// Checks that one object of a Go type has this form.
    pub(crate) fn check_object(self, go_type: &str) -> ApiResult<()> {
        match self {
            // Which could be a list, for all that its type says.
            Self::MetadataList(_) if go_type == UNSTRUCTURED => {
                Err(ApiError::unknown("content is not a list"))
            }
            Self::MetadataList(_) => Err(ApiError::not_acceptable_because(format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list (*{go_type})"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks that a list of a Go type has this form.
    pub(crate) fn check_list(self, go_type: &str) -> ApiResult<()> {
        match self {
            Self::Metadata(_) => Err(ApiError::not_acceptable_because(format!(
                "you requested PartialObjectMetadata, but the requested object is a list (*{go_type}List)"
            ))),
            _ => Ok(()),
        }
    }
}

const UNSTRUCTURED: &str = "unstructured.Unstructured";

/// Returns the type that messages of kube-apiserver name for an object: `core.Pod`.
pub(crate) fn go_type(resource: &ResourceType) -> String {
    if resource.is_unstructured() {
        return UNSTRUCTURED.to_owned();
    }
    let group = match resource.storage.0 {
        "" => "core",
        group => group.split('.').next().unwrap_or_default(),
    };
    format!("{group}.{}", resource.kind)
}

/// The encodings of this server, in the order in which it prefers them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Media {
    Json,
    Yaml,
}

/// Their media types, as messages list them.
const MEDIA: &str = "application/json, application/yaml";
const STREAMS: &str = "application/json;stream=watch";

/// The media types that a route produces.
pub(crate) mod produces {
    /// What is no object.
    pub(crate) const JSON: &str = "application/json";
    pub(crate) const OBJECTS: &str = super::MEDIA;
    pub(crate) const LISTS: &str =
        "application/json, application/yaml, application/json;stream=watch";
}

/// A media range of an `Accept` header.
struct Clause<'a> {
    main: &'a str,
    sub: &'a str,
    quality: f64,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (range, parameters) = text.split_once(';').unwrap_or((text, ""));
        let (main, sub) = match range.split_once('/') {
            Some((main, sub)) if !sub.contains('/') => (main.trim(), sub.trim()),
            None if range.trim() == "*" => ("*", "*"),
            _ => return None,
        };
        let mut clause = Self { main, sub, quality: 1.0, parameters: Vec::new() };
        for parameter in parameters.split(';') {
            match parameter.split_once('=') {
                Some((name, value)) if name.trim() == "q" => {
                    clause.quality = value.parse().unwrap_or(0.0);
                }
                Some((name, value)) if !value.is_empty() && !value.contains('=') => {
                    clause.parameters.push((name.trim(), value.trim()));
                }
                _ => {}
            }
        }
        Some(clause)
    }

    fn precedes(&self, other: &Self) -> bool {
        self.quality > other.quality
            || self.main != "*" && other.main == "*"
            || self.sub != "*" && other.sub == "*"
    }

    fn includes(&self, media: Media) -> bool {
        let sub = match media {
            Media::Json => "json",
            Media::Yaml => "yaml",
        };
        match (self.main, self.sub) {
            ("*", "*") | ("application", "*") => true,
            (main, own) => main == "application" && own == sub,
        }
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// Returns the form that the parameters ask for; `None` if the endpoint does not have it.
    fn form(&self, media: Media, converts: Converts) -> Option<Form> {
        if self.parameter("stream").is_some_and(|stream| media != Media::Json || stream != "watch")
        {
            return None;
        }
        if self.parameter("sv").is_some_and(|sv| converts == Converts::Nothing || sv != "v1") {
            return None;
        }
        let [kind, group, version] = ["as", "g", "v"].map(|name| self.parameter(name));
        if kind.or(group).or(version).is_none() {
            return Some(Form::Whole);
        }
        let version = match (group, version) {
            (Some("meta.k8s.io"), Some("v1")) => MetaVersion::V1,
            (Some("meta.k8s.io"), Some("v1beta1")) => MetaVersion::V1Beta1,
            _ => return None,
        };
        match (kind?, converts) {
            ("Table", Converts::Tables) => Some(Form::Table(Include::Metadata, version)),
            (_, Converts::Nothing) => None,
            ("PartialObjectMetadata", _) => Some(Form::Metadata(version)),
            ("PartialObjectMetadataList", _) => Some(Form::MetadataList(version)),
            _ => None,
        }
    }
}

fn accept(headers: &HeaderMap) -> &str {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.unwrap_or_default()
}

/// Returns the first encoding and form of the `Accept` header that an endpoint has.
fn choose(headers: &HeaderMap, converts: Converts) -> Option<(Media, Form)> {
    let accept = accept(headers);
    if accept.is_empty() {
        return Some((Media::Json, Form::Whole));
    }
    let mut clauses: Vec<Clause<'_>> = Vec::new();
    for clause in accept.split(',').filter_map(|text| Clause::parse(text.trim())) {
        // Sorted as by Go: what precedes is no strict order, so the algorithm matters.
        let before = clauses.iter().rev().take_while(|known| clause.precedes(known)).count();
        clauses.insert(clauses.len() - before, clause);
    }
    clauses.iter().find_map(|clause| {
        [Media::Json, Media::Yaml]
            .into_iter()
            .filter(|media| clause.includes(*media))
            .find_map(|media| Some((media, clause.form(media, converts)?)))
    })
}

/// Returns the form in which the client would have the objects of a response.
pub(crate) fn negotiate(
    headers: &HeaderMap,
    include: Option<&str>,
    converts: Converts,
) -> ApiResult<Form> {
    let (_, form) = choose(headers, converts).ok_or_else(|| ApiError::not_acceptable(MEDIA))?;
    let Form::Table(_, version) = form else { return Ok(form) };
    let include = match include {
        None | Some("" | "Metadata") => Include::Metadata,
        Some("None") => Include::Nothing,
        Some("Object") => Include::Object,
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: \
                 must be 'Metadata', 'Object', 'None', or empty"
            )));
        }
    };
    Ok(Form::Table(include, version))
}

/// Checks that the events of a watch can be encoded.
pub(crate) fn check_stream(headers: &HeaderMap) -> ApiResult<()> {
    match choose(headers, Converts::Tables) {
        Some((Media::Json, _)) => Ok(()),
        _ => Err(ApiError::not_acceptable(STREAMS)),
    }
}

/// Checks that one media range of the client names a type that the route produces: before anything else, and without
/// its parameters. Ranges of a part (`application/*`) do not count.
pub(crate) fn check_route(headers: &HeaderMap, produces: &str) -> ApiResult<()> {
    let accept = accept(headers);
    let names = accept.split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
    let is_produced = |name: &str| name == "*/*" || produces.split(", ").any(|known| known == name);
    if accept.is_empty() || names.into_iter().any(is_produced) {
        return Ok(());
    }
    Err(ApiError::no_representation(produces))
}

/// How the client would have a response encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    /// JSON for people to read: of an error in a form that the client did not ask for.
    IndentedJson,
}

/// Returns the encoding of a response.
pub(crate) fn encoding(headers: &HeaderMap, is_error: bool) -> Encoding {
    let converts = if is_error { Converts::Nothing } else { Converts::Tables };
    match choose(headers, converts) {
        Some((Media::Yaml, _)) => Encoding::Yaml,
        None if is_error => Encoding::IndentedJson,
        _ => Encoding::Json,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn accepting(accept: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
        headers
    }

    #[test]
    fn first_form_that_the_endpoint_has_is_chosen() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let whole = Ok(Form::Whole);
        let shown = |version| Ok(Form::Table(Include::Metadata, version));
        for (accept, converts, expected) in [
            (table, Converts::Tables, shown(MetaVersion::V1)),
            (&table.replace("v1", "v1beta1"), Converts::Tables, shown(MetaVersion::V1Beta1)),
            (&table.replace("v1", "v2"), Converts::Tables, Err(406)),
            (table, Converts::Metadata, Err(406)),
            (&format!("{table},application/json"), Converts::Metadata, whole),
            (
                "application/json;as=PartialObjectMetadataList;v=v1beta1;g=meta.k8s.io",
                Converts::Metadata,
                Ok(Form::MetadataList(MetaVersion::V1Beta1)),
            ),
            (
                "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
                Converts::Nothing,
                Err(406),
            ),
            ("application/json;as=", Converts::Tables, whole),
            ("application/json;g=meta.k8s.io", Converts::Tables, Err(406)),
            ("application/json;stream=watch", Converts::Tables, whole),
            ("application/yaml;stream=watch", Converts::Tables, Err(406)),
            ("application/json;sv=v1", Converts::Tables, whole),
            ("application/yaml", Converts::Tables, whole),
            ("application/*", Converts::Tables, whole),
            ("text/html", Converts::Tables, Err(406)),
            ("", Converts::Tables, whole),
        ] {
            let form = negotiate(&accepting(accept), None, converts);
            assert_eq!(form.map_err(|error| error.code().as_u16()), expected, "{accept}");
        }
    }

    #[test]
    fn encoding_follows_quality_and_an_error_is_no_table() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        for (accept, of_object, of_error) in [
            ("application/yaml", Encoding::Yaml, Encoding::Yaml),
            ("text/html, application/yaml;q=0.9, */*;q=0.1", Encoding::Yaml, Encoding::Yaml),
            ("application/json;q=0.1,application/yaml", Encoding::Yaml, Encoding::Yaml),
            ("application/json, application/yaml", Encoding::Json, Encoding::Json),
            ("*/*", Encoding::Json, Encoding::Json),
            ("", Encoding::Json, Encoding::Json),
            (table, Encoding::Json, Encoding::IndentedJson),
            (&format!("{table},application/json"), Encoding::Json, Encoding::Json),
        ] {
            let headers = accepting(accept);
            assert_eq!(encoding(&headers, false), of_object, "{accept}");
            assert_eq!(encoding(&headers, true), of_error, "{accept}");
        }
    }

    #[test]
    fn route_compares_the_names_of_media_types() {
        for (accept, is_found) in [
            ("application/json;as=Foo", true),
            ("text/plain, */*", true),
            ("application/*", false),
            ("application/cbor", false),
            ("garbage", false),
            ("", true),
        ] {
            assert_eq!(
                check_route(&accepting(accept), produces::OBJECTS).is_ok(),
                is_found,
                "{accept}"
            );
        }
    }
}

//! Label and field selectors.

use crate::{
    http::status::{ApiError, ApiResult},
    resources::resource_type::ResourceType,
    schema::types::Shape,
};
use serde_json::Value;

/// Label and field selectors of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

/// A field that is, or is not, equal to a value.
#[derive(Clone, Debug, PartialEq)]
struct FieldRequirement {
    /// The first of these paths with a value counts.
    paths: Vec<String>,
    /// The value of a field that is not set, as Go prints the zero value of its type.
    zero: &'static str,
    equal: bool,
    value: String,
}

#[derive(Clone, Debug, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

impl Selector {
    pub(crate) fn parse(
        resource: &ResourceType,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> ApiResult<Self> {
        Ok(Self {
            labels: labels.map_or(Ok(Vec::new()), parse_labels)?,
            fields: fields.map_or(Ok(Vec::new()), |text| parse_fields(resource, text))?,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        if self.is_empty() {
            return true;
        }
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|requirement| requirement.matches(labels))
            && self.fields.iter().all(|requirement| requirement.matches(object))
    }
}

impl Requirement {
    fn matches(&self, labels: &Value) -> bool {
        let value = labels.get(&self.key).and_then(Value::as_str);
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            Test::NotIn(values) => !value.is_some_and(|value| values.iter().any(|v| v == value)),
            Test::Above(bound) => number(value).is_some_and(|value| value > *bound),
            Test::Below(bound) => number(value).is_some_and(|value| value < *bound),
        }
    }
}

fn number(text: Option<&str>) -> Option<i64> {
    text?.parse().ok()
}

impl FieldRequirement {
    fn matches(&self, object: &Value) -> bool {
        let mut values = self.paths.iter().map(|path| field(object, path));
        let found = values.find(|value| !value.is_empty());
        (found.as_deref().unwrap_or(self.zero) == self.value) == self.equal
    }
}

fn field(object: &Value, path: &str) -> String {
    let value = path.split('.').try_fold(object, |value, part| value.get(part));
    match value {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// Returns the zero value of a field's type. Custom resources have no Go types, so theirs are empty.
fn zero(resource: &ResourceType, path: &str) -> &'static str {
    if resource.is_unstructured() {
        return "";
    }
    let mut structure = Some(resource.structure());
    let mut shape = None;
    for name in path.split('.') {
        shape = structure.and_then(|structure| structure.field(name)).map(|field| &field.shape);
        structure = shape.and_then(Shape::structure);
    }
    match shape {
        Some(Shape::Boolean) => "false",
        Some(Shape::Int32 | Shape::Int64) => "0",
        _ => "",
    }
}

fn parse_fields(resource: &ResourceType, text: &str) -> ApiResult<Vec<FieldRequirement>> {
    text.split(',')
        .filter(|term| !term.is_empty())
        .map(|term| {
            let (path, equal, value) = if let Some((path, value)) = term.split_once("!=") {
                (path, false, value)
            } else if let Some((path, value)) = term.split_once("==") {
                (path, true, value)
            } else if let Some((path, value)) = term.split_once('=') {
                (path, true, value)
            } else {
                return Err(ApiError::bad_request(format!(
                    "invalid field selector: {term:?}; can't understand {term:?}"
                )));
            };
            let paths = match path {
                "metadata.name" | "metadata.namespace" => vec![path.to_owned()],
                _ => {
                    resource.selectable_paths(path).ok_or_else(|| unknown_field(resource, path))?
                }
            };
            let zero = paths.first().map_or("", |path| zero(resource, path));
            Ok(FieldRequirement { paths, zero, equal, value: value.to_owned() })
        })
        .collect()
}

/// Words the error as Kubernetes does, which depends on whether the type registers field label conversions.
fn unknown_field(resource: &ResourceType, path: &str) -> ApiError {
    ApiError::bad_request(if resource.selectable.is_empty() {
        format!(
            "{path:?} is not a known field selector: only \"metadata.name\", \
             \"metadata.namespace\""
        )
    } else {
        format!("field label not supported: {path}")
    })
}

fn parse_labels(text: &str) -> ApiResult<Vec<Requirement>> {
    let tokens = tokens(text);
    let mut parser = Parser { tokens: &tokens, at: 0 };
    let mut requirements = Vec::new();
    if parser.peek() == Token::End {
        return Ok(requirements);
    }
    loop {
        requirements.push(parser.requirement()?);
        match parser.next() {
            Token::End => return Ok(requirements),
            Token::Sign(",") => match parser.peek() {
                Token::Word(_) | Token::Sign("!") => {}
                other => {
                    return Err(unparsed(&format!(
                        "found '{}', expected: identifier after ','",
                        other.text()
                    )));
                }
            },
            other => {
                return Err(unparsed(&format!(
                    "found '{}', expected: ',' or 'end of string'",
                    other.text()
                )));
            }
        }
    }
}

fn unparsed(why: &str) -> ApiError {
    ApiError::bad_request(format!("unable to parse requirement: {why}"))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    Sign(&'a str),
    End,
}

impl<'a> Token<'a> {
    fn text(&self) -> &'a str {
        match self {
            Token::Word(text) | Token::Sign(text) => text,
            Token::End => "",
        }
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    const SIGNS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", "<", ">"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            rest = rest.get(sign.len()..).unwrap_or_default();
        } else {
            let end = rest
                .find(|c: char| c.is_whitespace() || "=!(),<>".contains(c))
                .unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            tokens.push(Token::Word(word));
            rest = after;
        }
        rest = rest.trim_start();
    }
    tokens
}

struct Parser<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.at).copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> ApiResult<Requirement> {
        let absent = self.peek() == Token::Sign("!");
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key.to_owned(),
            other => {
                return Err(unparsed(&format!("found '{}', expected: identifier", other.text())));
            }
        };
        if absent {
            return Ok(Requirement { key, test: Test::Absent });
        }
        let test = match self.peek() {
            Token::End | Token::Sign(",") => Test::Exists,
            operator => {
                self.next();
                match operator {
                    Token::Sign("=" | "==") => Test::In(vec![self.value()?]),
                    Token::Sign("!=") => Test::NotIn(vec![self.value()?]),
                    Token::Sign(">") => Test::Above(self.integer()?),
                    Token::Sign("<") => Test::Below(self.integer()?),
                    Token::Word("in") => Test::In(self.values()?),
                    Token::Word("notin") => Test::NotIn(self.values()?),
                    other => {
                        return Err(unparsed(&format!(
                            "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                            other.text()
                        )));
                    }
                }
            }
        };
        Ok(Requirement { key, test })
    }

    /// Parses one value; a missing one is the empty string.
    fn value(&mut self) -> ApiResult<String> {
        match self.peek() {
            Token::End | Token::Sign(",") => Ok(String::new()),
            Token::Word(value) => {
                self.next();
                Ok(value.to_owned())
            }
            Token::Sign(other) => Err(unparsed(&format!("found '{other}', expected: identifier"))),
        }
    }

    fn integer(&mut self) -> ApiResult<i64> {
        let value = self.value()?;
        value.parse().map_err(|_| unparsed(&format!("found '{value}', expected: integer")))
    }

    fn values(&mut self) -> ApiResult<Vec<String>> {
        match self.next() {
            Token::Sign("(") => {}
            other => return Err(unparsed(&format!("found '{}' expected: '('", other.text()))),
        }
        let mut values = Vec::new();
        loop {
            match self.next() {
                Token::Word(value) => {
                    values.push(value.to_owned());
                    match self.next() {
                        Token::Sign(",") => {}
                        Token::Sign(")") => return Ok(values),
                        other => {
                            return Err(unparsed(&format!(
                                "found '{}', expected: ',' or ')'",
                                other.text()
                            )));
                        }
                    }
                }
                Token::Sign(")") => {
                    values.push(String::new());
                    return Ok(values);
                }
                Token::Sign(",") => values.push(String::new()),
                other => {
                    return Err(unparsed(&format!(
                        "found '{}', expected: ',', or identifier",
                        other.text()
                    )));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selector_matches_as_in_kubernetes() {
        let object = json!({ "metadata": { "labels": { "app": "x", "env": "prod", "n": "5" } } });
        for (selector, expected) in [
            ("", true),
            ("app=x", true),
            ("app==x,env!=prod", false),
            ("env in (prod,canary)", true),
            ("env notin (prod)", false),
            ("absent notin (prod)", true),
            ("absent!=prod", true),
            ("absent in (prod)", false),
            ("!absent", true),
            ("!env", false),
            ("env", true),
            ("env, app in ( x )", true),
            ("n>4", true),
            ("n<5", false),
            ("app=", false),
        ] {
            let labels = parse_labels(selector).unwrap();
            let selector_ = Selector { labels, fields: Vec::new() };
            assert_eq!(selector_.matches(&object), expected, "{selector}");
        }
    }

    #[test]
    fn field_that_is_not_set_has_the_zero_value_of_its_type() {
        use crate::resources::registry::find_kind;
        for ((group, kind), object, selector, expected) in [
            (("", "Node"), json!({}), "spec.unschedulable=false", true),
            (
                ("", "Node"),
                json!({ "spec": { "unschedulable": true } }),
                "spec.unschedulable=false",
                false,
            ),
            (("", "Node"), json!({}), "spec.unschedulable!=true", true),
            (("", "Pod"), json!({}), "spec.hostNetwork=false", true),
            (("", "Pod"), json!({}), "spec.nodeName=", true),
            (
                ("", "Pod"),
                json!({ "status": { "phase": "Running" } }),
                "status.phase==Running",
                true,
            ),
            (("batch", "Job"), json!({}), "status.successful=0", true),
            (
                ("batch", "Job"),
                json!({ "status": { "succeeded": 1 } }),
                "status.successful=1",
                true,
            ),
            (
                ("", "Event"),
                json!({ "source": { "component": "kubelet" } }),
                "source=kubelet",
                true,
            ),
            (("", "Event"), json!({ "reportingComponent": "c", "source": {} }), "source=c", true),
        ] {
            let resource = find_kind(group, "v1", kind).unwrap();
            let parsed = Selector::parse(resource, None, Some(selector)).unwrap();
            assert_eq!(parsed.matches(&object), expected, "{kind} {selector} {object}");
        }
        let resource = find_kind("apps", "v1", "ReplicaSet").unwrap();
        assert!(Selector::parse(resource, None, Some("status.replicas=0")).is_err());
    }

    /// Each selectable field of a built-in type is a field of it.
    #[test]
    fn selectable_fields_exist() {
        for resource in crate::resources::registry::all() {
            for label in resource.selectable {
                let label = label.split('=').next().unwrap();
                for path in resource.selectable_paths(label).unwrap() {
                    let mut structure = Some(resource.structure());
                    for name in path.split('.') {
                        let field = structure.and_then(|structure| structure.field(name));
                        let field =
                            field.unwrap_or_else(|| panic!("{} has no {path}", resource.kind));
                        structure = field.shape.structure();
                    }
                }
            }
        }
    }

    #[test]
    fn invalid_label_selector_is_rejected_as_in_kubernetes() {
        for (selector, expected) in [
            ("app===x", "found '=', expected: identifier"),
            ("app in x", "found 'x' expected: '('"),
            ("a,", "found '', expected: identifier after ','"),
            ("a in (b", "found '', expected: ',' or ')'"),
        ] {
            let error = parse_labels(selector).unwrap_err().to_value();
            let message = format!("unable to parse requirement: {expected}");
            assert_eq!(error["message"], message, "{selector}");
        }
    }
}

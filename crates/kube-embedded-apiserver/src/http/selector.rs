//! Label and field selectors.

use crate::{
    http::status::{ApiError, ApiResult},
    resources::resource_type::ResourceType,
    schema::types::Shape,
    validation::{
        field_error::{FieldError, invalid},
        names::{label_value, qualified_name},
    },
};
use serde_json::Value;
use std::collections::BTreeSet;

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

/// Parses a field selector (`fields.ParseSelector`). Its terms are looked at in their order as text.
fn parse_fields(resource: &ResourceType, text: &str) -> ApiResult<Vec<FieldRequirement>> {
    let mut terms = field_terms(text);
    terms.sort_unstable();
    let mut parsed = Vec::new();
    for term in terms.into_iter().filter(|term| !term.is_empty()) {
        let Some(at) = term.find("!=").into_iter().chain(term.find('=')).min() else {
            let why = format!("invalid selector: '{text}'; can't understand '{term}'");
            return Err(ApiError::bad_request(why));
        };
        let (path, rest) = term.split_at(at);
        let operator = ["!=", "==", "="].into_iter().find(|sign| rest.starts_with(sign));
        let operator = operator.unwrap_or_default();
        let value = unescaped(rest.get(operator.len()..).unwrap_or_default())?;
        parsed.push((path, operator != "!=", value));
    }
    let requirements = parsed.into_iter().map(|(path, equal, value)| {
        let paths = field_paths(resource, path).ok_or_else(|| unknown_field(resource, path))?;
        let zero = paths.first().map_or("", |path| zero(resource, path));
        Ok(FieldRequirement { paths, zero, equal, value })
    });
    requirements.collect()
}

/// Splits a selector at its commas, apart from those after a backslash.
fn field_terms(text: &str) -> Vec<&str> {
    let mut is_escaped = false;
    text.split(|c| {
        let is_plain = !std::mem::replace(&mut is_escaped, false);
        is_escaped = is_plain && c == '\\';
        is_plain && c == ','
    })
    .collect()
}

/// Returns a value without the backslashes before `\`, `,` and `=`, which may not stand alone in it.
fn unescaped(value: &str) -> ApiResult<String> {
    let refuse = |why: String| Err(ApiError::bad_request(format!("invalid field selector: {why}")));
    let (mut out, mut chars) = (String::with_capacity(value.len()), value.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return refuse(format!("invalid escape sequence: {sequence}"));
                }
            },
            ',' | '=' => {
                let code = u32::from(c);
                return refuse(format!("unescaped character in value: {code}"));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Returns the paths of a field that may be named. What is in no namespace and has fields of its own has no
/// `metadata.namespace`.
fn field_paths(resource: &ResourceType, path: &str) -> Option<Vec<String>> {
    let has_namespace = resource.namespaced || resource.selectable.is_empty();
    match path {
        "metadata.name" => Some(vec![path.to_owned()]),
        "metadata.namespace" if has_namespace => Some(vec![path.to_owned()]),
        _ => resource.selectable_paths(path),
    }
}

/// Words the error as Kubernetes does, which depends on whether the type registers field label conversions.
fn unknown_field(resource: &ResourceType, path: &str) -> ApiError {
    let registers = !resource.selectable.is_empty();
    ApiError::bad_request(match (registers, resource.group) {
        (true, "batch") => format!("field label {path:?} not supported for {}", resource.kind),
        (true, _) => format!("field label not supported: {path}"),
        (false, _) => format!(
            "{path:?} is not a known field selector: only \"metadata.name\", \
             \"metadata.namespace\""
        ),
    })
}

/// Parses a label selector (`labels.Parse`).
fn parse_labels(text: &str) -> ApiResult<Vec<Requirement>> {
    let tokens = tokens(text);
    let mut parser = Parser { tokens: &tokens, at: 0 };
    let mut requirements = Vec::new();
    let unexpected = |token: Token, expected: &str| {
        Err(ApiError::bad_request(format!("found '{}', expected: {expected}", token.text())))
    };
    loop {
        match parser.peek() {
            Token::Word(_) | Token::Sign("!") => requirements.push(parser.requirement()?),
            Token::End => return Ok(requirements),
            other => return unexpected(other, "!, identifier, or 'end of string'"),
        }
        match parser.next() {
            Token::End => return Ok(requirements),
            Token::Sign(",") => match parser.peek() {
                Token::Word(_) | Token::Sign("!") => {}
                other => return unexpected(other, "identifier after ','"),
            },
            other => return unexpected(other, "',' or 'end of string'"),
        }
    }
}

/// An error of one requirement.
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
        let details = qualified_name(&key);
        if !details.is_empty() {
            let details = details.join("; ");
            let why = invalid("<nil>", &key.as_str().into(), &details);
            return Err(unparsed(&format!("{}: {}", why.field, why.message)));
        }
        let test = match self.peek() {
            _ if absent => Test::Absent,
            Token::End | Token::Sign(",") => Test::Exists,
            operator => {
                self.next();
                match operator {
                    Token::Sign("=" | "==") => Test::In(vec![self.value()?]),
                    Token::Sign("!=") => Test::NotIn(vec![self.value()?]),
                    Token::Sign(">") => Test::Above(integer(self.value()?, &key)?),
                    Token::Sign("<") => Test::Below(integer(self.value()?, &key)?),
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
        if let Test::In(values) | Test::NotIn(values) = &test {
            check_values(values.iter(), &key)?;
        }
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

/// Parses the value of `>` or `<`.
fn integer(value: String, key: &str) -> ApiResult<i64> {
    let parsed = value.parse();
    let why = "for 'Gt', 'Lt' operators, the value must be an integer";
    let is_wrong = parsed.is_err().then(|| invalid("values[0]", &value.as_str().into(), why));
    check(is_wrong.into_iter().chain(value_errors(0, &value, key)))?;
    Ok(parsed.unwrap_or_default())
}

/// Checks the values of a requirement, which Kubernetes keeps as a sorted set.
fn check_values<'v>(values: impl Iterator<Item = &'v String>, key: &str) -> ApiResult<()> {
    let values: BTreeSet<&String> = values.collect();
    check(values.iter().enumerate().flat_map(|(at, value)| value_errors(at, value, key)))
}

fn value_errors(at: usize, value: &str, key: &str) -> Option<FieldError> {
    let details = label_value(value);
    let field = format!("values[{at}][{key}]");
    (!details.is_empty()).then(|| invalid(field, &value.into(), &details.join("; ")))
}

/// Returns the errors of a requirement as one (`utilerrors.Aggregate`).
fn check(errors: impl Iterator<Item = FieldError>) -> ApiResult<()> {
    let errors: Vec<_> = errors.map(|e| format!("{}: {}", e.field, e.message)).collect();
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(unparsed(one)),
        all => Err(unparsed(&format!("[{}]", all.join(", ")))),
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
        let of_requirement = "unable to parse requirement: ";
        let name_part = "name part must consist of alphanumeric characters";
        for (selector, of, expected) in [
            ("app===x", of_requirement, "found '=', expected: identifier"),
            ("app in x", of_requirement, "found 'x' expected: '('"),
            ("a in (b", of_requirement, "found '', expected: ',' or ')'"),
            ("a>", of_requirement, "values[0]: Invalid value: \"\": for 'Gt', 'Lt' operators"),
            ("a>1.5", of_requirement, "values[0]: Invalid value: \"1.5\": for 'Gt', 'Lt' opera"),
            ("-a", of_requirement, &format!("<nil>: Invalid value: \"-a\": {name_part}")),
            ("/b=c", of_requirement, "<nil>: Invalid value: \"/b\": prefix part must be non-emp"),
            ("!a/b/c", of_requirement, "<nil>: Invalid value: \"a/b/c\": a valid label key mus"),
            ("a=-b", of_requirement, "values[0][a]: Invalid value: \"-b\": a valid label must"),
            ("a notin (c,@)", of_requirement, "values[0][a]: Invalid value: \"@\": a valid la"),
            ("a,", "", "found '', expected: identifier after ','"),
            ("!a=b", "", "found '=', expected: ',' or 'end of string'"),
            ("a=b c", "", "found 'c', expected: ',' or 'end of string'"),
            (",a", "", "found ',', expected: !, identifier, or 'end of string'"),
        ] {
            let message = parse_labels(selector).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{of}{expected}")), "{selector}: {message}");
        }
    }

    #[test]
    fn invalid_field_selector_is_rejected_as_in_kubernetes() {
        let find = |kind| crate::resources::registry::all().iter().find(|known| known.kind == kind);
        let known = "is not a known field selector: only \"metadata.name\", \"metadata.namespace\"";
        for (kind, selector, expected) in [
            ("Pod", "metadata.name=a\\,b,,metadata.name!=c", ""),
            ("Pod", "spec.host=n,status.podIPs=", ""),
            ("Role", "metadata.namespace==a", ""),
            ("ClusterRole", "metadata.namespace==a", ""),
            ("Namespace", "metadata.namespace=a", "field label not supported: metadata.namespace"),
            ("Pod", "b=1,a=1", "field label not supported: a"),
            ("Job", "a=1", "field label \"a\" not supported for Job"),
            ("ConfigMap", "a=1", &format!("\"a\" {known}")),
            ("Pod", "z,a>b", "invalid selector: 'z,a>b'; can't understand 'a>b'"),
            ("Pod", "a=b=c", "invalid field selector: unescaped character in value: 61"),
            ("Pod", "a=b\\x", "invalid field selector: invalid escape sequence: \\x"),
            ("Pod", "a=b\\", "invalid field selector: invalid escape sequence: \\"),
        ] {
            let found = Selector::parse(find(kind).unwrap(), None, Some(selector));
            let message = found.err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(message, expected, "{kind} {selector}");
        }
    }
}

//! Parses field paths as Kubernetes writes them: in causes (`spec.containers[0].image`), in conflicts and
//! schema errors of server-side apply (`.spec.containers[name="kubeapp"].image`), and inside the messages
//! of decoding errors.

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// `.name` or, for a key with dots, `[app.kubernetes.io/name]`.
    Key(String),
    /// `[0]`.
    Index(usize),
    /// `[containerPort=8080,protocol="TCP"]`: the element with these values.
    Keyed(Vec<(String, String)>),
}

/// Parses a path up to the first syntax error.
pub(super) fn parse(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path.trim();
    while !rest.is_empty() {
        rest = rest.trim_start_matches('.');
        if let Some(inner) = rest.strip_prefix('[') {
            let Some(end) = closing(inner) else { break };
            let (inside, after) = inner.split_at(end);
            steps.push(bracket(inside));
            rest = after.get(1..).unwrap_or_default();
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (key, after) = rest.split_at(end);
            if !key.is_empty() {
                steps.push(Step::Key(key.to_owned()));
            }
            rest = after;
        }
    }
    steps
}

/// Extracts the paths in a message: those after `unknown field`, `duplicate field` and `Go struct field`,
/// or else words that start with a dot.
pub(super) fn in_message(message: &str) -> Vec<String> {
    let mut found = Vec::new();
    for marker in ["unknown field \"", "duplicate field \"", "field \""] {
        for (at, _) in message.match_indices(marker) {
            let rest = message.get(at + marker.len()..).unwrap_or_default();
            // Decoding errors index lists by number, so the path holds no quotes.
            if let Some(path) = rest.split('"').next() {
                push(&mut found, path);
            }
        }
    }
    for (at, marker) in message.match_indices("Go struct field ") {
        let rest = message.get(at + marker.len()..).unwrap_or_default();
        // `DeploymentSpec.spec.replicas`: the type, then the path.
        if let Some((_, path)) = rest.split_whitespace().next().and_then(|w| w.split_once('.')) {
            // Embedded structs are in it as well: `spec.rules.IngressRuleValue.http`.
            let is_field = |part: &&str| !part.starts_with(|c: char| c.is_ascii_uppercase());
            push(&mut found, &path.split('.').filter(is_field).collect::<Vec<_>>().join("."));
        }
    }
    if found.is_empty() {
        for word in message.split_whitespace().filter(|word| word.starts_with('.')) {
            push(&mut found, word.trim_end_matches([':', ',']).trim_start_matches('.'));
        }
    }
    found
}

fn push(found: &mut Vec<String>, path: &str) {
    if !path.is_empty() && !found.iter().any(|known| known == path) {
        found.push(path.to_owned());
    }
}

/// Returns the position of the closing bracket outside of quotes.
fn closing(inside: &str) -> Option<usize> {
    let mut quoted = false;
    inside.char_indices().find_map(|(at, c)| {
        quoted ^= c == '"';
        (c == ']' && !quoted).then_some(at)
    })
}

fn bracket(inside: &str) -> Step {
    if let Ok(index) = inside.parse() {
        return Step::Index(index);
    }
    let pairs: Option<Vec<_>> = inside
        .split(',')
        .map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((key.to_owned(), value.trim_matches('"').to_owned()))
        })
        .collect();
    match pairs {
        Some(pairs) => Step::Keyed(pairs),
        None => Step::Key(inside.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_parsed_into_steps() {
        let key = |k: &str| Step::Key(k.to_owned());
        let keyed = |pairs: &[(&str, &str)]| {
            Step::Keyed(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
        };
        for (path, steps) in [
            ("", vec![]),
            ("spec.replicas", vec![key("spec"), key("replicas")]),
            (
                "spec.containers[0].image",
                vec![key("spec"), key("containers"), Step::Index(0), key("image")],
            ),
            (
                ".c[name=\"kubeapp\"].image",
                vec![key("c"), keyed(&[("name", "kubeapp")]), key("image")],
            ),
            (
                ".ports[containerPort=8080,protocol=\"TCP\"]",
                vec![key("ports"), keyed(&[("containerPort", "8080"), ("protocol", "TCP")])],
            ),
            ("labels[app.kubernetes.io/name]", vec![key("labels"), key("app.kubernetes.io/name")]),
            ("c[name=\"a]b\"].x", vec![key("c"), keyed(&[("name", "a]b")]), key("x")]),
            ("spec.broken[", vec![key("spec"), key("broken")]),
        ] {
            assert_eq!(parse(path), steps, "{path}");
        }
    }

    #[test]
    fn paths_are_extracted_from_messages() {
        for (message, paths) in [
            (
                "strict decoding error: unknown field \"spec.a\", unknown field \"spec.b[0].c\"",
                vec!["spec.a", "spec.b[0].c"],
            ),
            (
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
                vec!["spec.replicas"],
            ),
            (
                "json: cannot unmarshal object into Go struct field \
                 HTTPIngressRuleValue.spec.rules.IngressRuleValue.http.paths of type []v1.HTTPIngressPath",
                vec!["spec.rules.http.paths"],
            ),
            (
                "errors:\n  .spec.a: field not declared in schema\n  .spec.b: field not declared in schema",
                vec!["spec.a", "spec.b"],
            ),
            ("namespaces \"production\" not found", vec![]),
            ("the server said no...", vec![]),
        ] {
            assert_eq!(in_message(message), paths, "{message}");
        }
    }

    /// The inverse of [`parse`] for steps that Kubernetes writes.
    fn format(steps: &[Step]) -> String {
        let step = |step: &Step| match step {
            Step::Key(key) if key.contains(['.', '/']) => format!("[{key}]"),
            Step::Key(key) => format!(".{key}"),
            Step::Index(index) => format!("[{index}]"),
            Step::Keyed(pairs) => {
                let pairs = pairs.iter().map(|(key, value)| format!("{key}=\"{value}\""));
                format!("[{}]", pairs.collect::<Vec<_>>().join(","))
            }
        };
        steps.iter().map(step).collect()
    }

    fn step() -> impl Strategy<Value = Step> {
        let name = "[a-zA-Z][a-zA-Z0-9-]{0,8}";
        prop_oneof![
            name.prop_map(Step::Key),
            "[a-z]{1,5}\\.[a-z]{1,3}/[a-z]{1,5}".prop_map(Step::Key),
            (0..1000_usize).prop_map(Step::Index),
            proptest::collection::vec((name, "[a-zA-Z0-9:/.\\]-]{0,8}"), 1..3)
                .prop_map(Step::Keyed),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn formatted_path_is_parsed_back(steps in proptest::collection::vec(step(), 0..8)) {
            prop_assert_eq!(parse(&format(&steps)), steps);
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "\\PC{0,60}") {
            _ = parse(&text);
            _ = in_message(&text);
        }
    }
}

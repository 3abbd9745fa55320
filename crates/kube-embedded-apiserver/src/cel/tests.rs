//! What expressions evaluate to, and which are refused. The expected values are those of
//! kube-apiserver 1.36.

use super::{Budget, CompileError, EvalError, Program, types::Type, value::Val};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Evaluates an expression over a variable `self` of any type.
fn evaluate(source: &str, this: &Value) -> Result<bool, String> {
    let program =
        Program::compile(source, &[("self", Type::Dyn)]).map_err(|error| error.of("program"))?;
    let mut budget = Budget::default();
    match program.run(&[("self", Val::of(this, &super::value::DYN))], &mut budget) {
        Ok(Val::Bool(value)) => Ok(value),
        Ok(other) => Err(format!("{other:?}")),
        Err(EvalError::Failed(why)) => Err(why),
        Err(EvalError::Overload) => Err("no such overload".to_owned()),
        Err(EvalError::CallLimit) => Err("too expensive".to_owned()),
    }
}

#[test]
fn expressions_have_the_values_of_kubernetes() {
    let this = json!({
        "a": 5, "n": 2.5, "s": "hello", "l": ["a", "b"], "m": { "k": 1 }, "o": { "x": 3 },
        "time": "2024-05-06T07:08:09Z",
    });
    for source in [
        "self.a == 5 && self.a == 5.0 && self.a != 6u",
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && -7 / 2 == -3 && -7 % 2 == -1",
        "self.a / 0 == 1 || self.a == 5",
        "!(self.a / 0 == 1 && self.a == 6)",
        "self.s.size() == 5 && size('ü') == 1 && 'üx'.indexOf('x') == 1",
        "'b' in self.l && !('z' in self.l) && 'k' in self.m",
        "has(self.o.x) && !has(self.o.y) && !has(self.m.zz)",
        "self.l.all(x, x.size() == 1) && self.l.exists(x, x == 'b') && self.l.exists_one(x, x == 'a')",
        "self.l.filter(x, x == 'a') == ['a'] && self.l.map(x, x + '!') == ['a!', 'b!']",
        "self.l.map(x, x == 'a', x + '!') == ['a!'] && self.l.all(i, v, v == self.l[i])",
        "self.l.transformMap(i, v, v) == {0: 'a', 1: 'b'} && self.m.map(k, k) == ['k']",
        "self.l.transformMapEntry(i, v, {v: i}) == {'a': 0, 'b': 1} && self.l.exists_one(i, v, i > 0)",
        "self.m.transformMapEntry(k, v, v > 1, {k: v}) == {} && has(has(self.o.x))",
        "(self.a > 1 ? 1 : dyn('x')) == 1 && [?optional.none(), 1] == [1]",
        "['b', 'a'].sortBy(x, x) == ['a', 'b'] && [3, 1].sort() == [1, 3]",
        "timestamp(self.time).getFullYear() == 2024 && timestamp(self.time).getDayOfWeek() == 1",
        "timestamp(self.time) + duration('1h') > timestamp(self.time)",
        "timestamp(self.time).getHours('+02:30') == 9 && timestamp(self.time).getMinutes('+02:30') == 38",
        "timestamp(self.time).getHours('-7:30') == 23 && timestamp(self.time).getDate('-7:30') == 5",
        "timestamp(self.time).getHours('UTC') == 7 && timestamp(self.time).getHours('') == 7",
        "duration('1h30m') == duration('90m') && duration('1h30m').getMinutes() == 90",
        "string(duration('1.5s')) == '1.5s' && string(1e100) == '1e+100' && string(2.5) == '2.5'",
        "'hello'.charAt(5) == '' && 'hello'.substring(1, 3) == 'el' && 'hello'.lastIndexOf('l') == 3",
        "'a,b,c'.split(',', 2) == ['a', 'b,c'] && ['a', 'b'].join('-') == 'a-b'",
        "'hello'.replace('l', 'L', 1) == 'heLlo' && ' x '.trim() == 'x'",
        "'%s %d %.2f %x'.format([['a', 1], 1, 2.5, 255]) == '[\"a\", 1] 1 2.50 ff'",
        "'a1b2'.findAll('[0-9]') == ['1', '2'] && 'abc'.matches(r'^\\w+$') && !'ä'.matches(r'\\w')",
        "[1, 2].sum() == 3 && [1, 2].max() == 2 && [1, 2].isSorted() && [[1], [2]].flatten() == [1, 2]",
        "sets.equivalent([1, 2], [2, 1, 1]) && sets.contains([1, 2], [1]) && sets.intersects([1], [1])",
        "isIP('1.2.3.4') && !isIP('::ffff:1.2.3.4') && ip('169.254.0.1').isLinkLocalUnicast()",
        "cidr('10.0.0.0/8').containsIP('10.1.1.1') && !isCIDR('10.0.0.0/33')",
        "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && !isCIDR('10.0.0.0/08')",
        "url('https://[::1]:80/a?x=1&x=2').getHostname() == '::1' && !isURL('a.b') && isURL('/a')",
        "url('https://example.com').getEscapedPath() == '' && url('http://a:1').getPort() == '1'",
        "quantity('1Gi') == quantity('1024Mi') && quantity('1').isLessThan(quantity('1.5'))",
        "quantity('2k').asInteger() == 2000 && !quantity('1.5').isInteger() && !isQuantity('x')",
        "format.dns1123Label().validate('Abc').hasValue() && !format.named('x').hasValue()",
        "semver('1.2.3-alpha').isLessThan(semver('1.2.3')) && !isSemver('v1.2') && isSemver('v1.2', true)",
        "self.?a.orValue(1) == 5 && self.?zz.?y.orValue(7) == 7 && self.l[?9].orValue('z') == 'z'",
        "self.?m['k'].orValue(2) == 1 && self.?m['z'].orValue(2) == 2 && self.?l[?0].orValue('') == 'a'",
        "!self.?zz['k'].hasValue() && self.?l[9].orValue('z') == 'z' && has(self.?m.k)",
        "[?self.?a, ?self.?zz] == [5] && self.?a.optMap(x, x + 1).value() == 6",
        "type(self.a) == int && type(self.l) == list && type(type(1)) == type",
        "{'a': 1}.a == 1 && dyn({'a': [1]}) == dyn({'a': [1.0]}) && b'\\x41' == bytes('A')",
        "'\\x41\\u00e4\\101' == 'AäA' && r'\\d' == '\\\\d' && '''a'b''' == 'a\\'b'",
        "!(optional.none() == null) && optional.none() == optional.none()",
        "'%f %.300f'.format([1234567.891, 1.5]).startsWith('1,234,567.891000 1.5')",
        "'%e|%.2e|%f'.format([0.000012, -1234.5, 1.0 / 0.0]) == '1.200000×10⁻⁰⁵|-1.234500×10⁰³|∞'",
        "'%s'.format([{'b': 1, 'a': [1.0, null, duration('1h')]}]) == '{\"a\":[1.000000, null, duration(\"3600s\")], \"b\":1}'",
        "string(1234567.5) == '1.2345675e+06' && string(duration('1699996338.998998999s')) == '1699996338.9989989s'",
        "string(timestamp('2023-12-31T23:30:00+05:30') + duration('1h')) == '2024-01-01T00:30:00+05:30'",
        "timestamp('2023-12-31T23:30:00+05:30').getHours() == 18 && int(timestamp('1969-12-31T23:59:59.5Z')) == -1",
        "timestamp('9999-12-31T23:59:59.999999999Z').getMonth() == 11 && timestamp(0).getDayOfYear() == 0",
        "timestamp('2024-01-01T00:00:00Z').getMinutes('-00:30') == 30",
        "'abc'.indexOf('c', 3) == -1 && 'abc'.indexOf('', 9) == 9 && 'abc'.lastIndexOf('a', 9) == -1",
        "!quantity('1000m').isInteger() && quantity('1k').isInteger()",
        "optional.of(1).orValue([][0]) == 1 && {'a': 1, 'a': 2} == {'a': 2}",
        "url('http://a/b?q=1#f').getQuery() == {'q': ['1']} && url('//a/b').getHost() == 'a'",
        "isURL('mailto:a@b') && !isURL('http://a/%zz') && !isURL('http://a:b')",
        "format.dns1123Label().validate('a.b').value() == ['must not contain dots']",
        "format.dns1123LabelPrefix().validate('a--') == optional.none() && format.byte().validate('').hasValue()",
        "0x1F == 31 && -9223372036854775808 < 0 && 1u < 2 && 1 < 1.5",
    ] {
        assert_eq!(evaluate(source, &this), Ok(true), "{source}");
    }
}

#[test]
fn failures_are_worded_as_in_kubernetes() {
    let this = json!({ "a": 5, "l": ["a"], "m": { "k": 1 }, "text": "x" });
    for (source, why) in [
        ("self.a / 0 == 1", "division by zero"),
        ("self.a % 0 == 1", "modulus by zero"),
        ("self.l[5] == 'a'", "index out of bounds: 5"),
        ("self.l[-1] == 'a'", "index out of bounds: -1"),
        ("self.nope == 1", "no such key: nope"),
        ("9223372036854775807 + self.a == 0", "integer overflow"),
        ("self.a.startsWith('x')", "no such overload"),
        ("self.text + 1 == 2", "no such overload"),
        ("optional.none().value() == 1", "optional.none() dereference"),
        ("timestamp(0).getHours('Mars/Olympus') == 1", "unknown time zone Mars/Olympus"),
        ("'a'.charAt(5) == ''", "index out of range: 5"),
        ("['a', 'a'].transformMapEntry(i, v, {v: i}) == {}", "insert failed: key a already exists"),
        ("self.l.all(x, x)", "no such overload"),
        (
            "'a'.find('(') == ''",
            "program instantiation failed: error parsing regexp: unclosed group: `(`",
        ),
        ("self.text.matches('(' + self.text)", "error parsing regexp: unclosed group: `(x`"),
    ] {
        assert_eq!(evaluate(source, &this), Err(why.to_owned()), "{source}");
    }
}

/// Each of these would run for minutes, or take gigabytes.
#[test]
fn expensive_expressions_end_within_their_budget() {
    let list: Vec<u32> = (0..2000).collect();
    let this = json!({ "l": list, "text": "a".repeat(100_000) });
    for source in [
        "self.l.all(a, self.l.all(b, self.l.all(c, a + b + c >= 0)))",
        "self.l.map(a, self.l.map(b, self.l.map(c, self.text))).size() > 0",
        "self.l.exists(x, self.text.matches('(a*)*b|(a|aa)+b' + string(x)))",
        "self.l.exists(x, 'x'.matches('((a{50}){50}){' + string(x + 1) + '}b'))",
        "self.text.replace('a', self.text).size() > 0",
        "lists.range(1000000000).size() > 0",
        "self.l.all(x, size(self.text) > 0 && self.text == self.text)",
        "self.l.map(x, self.l + self.l).flatten().sort().distinct().size() > 0",
        "'%s%s'.format([self.l.map(x, self.text), self.text]).size() > 0",
        "self.l.map(x, self.text).join(self.text).size() > 0",
        "self.l.exists(x, x in self.l.filter(y, y != x))",
    ] {
        assert_eq!(evaluate(source, &this), Err("too expensive".to_owned()), "{source}");
    }
}

#[test]
fn deep_or_malformed_expressions_are_refused_without_harm() {
    let deep = [
        "(".repeat(10_000),
        "[".repeat(10_000),
        "!-".repeat(10_000) + "self.a",
        "self".to_owned() + &".a".repeat(10_000),
        "1".to_owned() + &" + 1".repeat(10_000) + " == 1",
        "true".to_owned() + &" ? true : true".repeat(10_000),
        "self.all(x, ".repeat(200) + "true" + &")".repeat(200),
        "x".repeat(200_000),
    ];
    for source in &deep {
        assert!(Program::compile(source, &[("self", Type::Dyn)]).is_err(), "{:.20}", source);
    }
    // Many operands of one operator are not deep.
    let wide = "true".to_owned() + &" && true".repeat(5_000);
    assert_eq!(evaluate(&wide, &Value::Null), Ok(true));
    // Nor are signs, of which two cancel each other.
    let signs = "!".repeat(10_000) + "(" + &"-".repeat(10_001) + "1 == --1 - 2)";
    assert_eq!(evaluate(&signs, &Value::Null), Ok(true));
    for source in [
        "",
        " ",
        "'",
        "\"\"\"",
        "`",
        "a.`",
        "@",
        "1.",
        ".",
        "a..b",
        "f(",
        "f(,)",
        "[,]",
        "{a}",
        "{1:}",
        "?",
        "a ? b",
        "'\\u12'",
        "'\\xg'",
        "0x",
        "1e",
        "99999999999999999999",
        "has()",
        "has(self)",
        "self.all()",
        "self.all(1, true)",
        "self.map(x)",
        "Foo{a: 1}",
        "in",
    ] {
        assert!(Program::compile(source, &[("self", Type::Dyn)]).is_err(), "{source}");
    }
}

#[test]
fn errors_of_compilation_are_those_of_cel_go() {
    let variables = [
        ("self", Type::list(Type::Text)),
        ("n", Type::Int),
        ("m", Type::map(Type::Text, Type::Int)),
    ];
    for (source, column, message) in [
        ("bar", 1, "undeclared reference to 'bar' (in container '')"),
        ("n + self[0]", 3, "found no matching overload for '_+_' applied to '(int, string)'"),
        ("n == 1.0", 3, "found no matching overload for '_==_' applied to '(int, double)'"),
        ("n.foo", 2, "type 'int' does not support field selection"),
        ("self.all(x, x)", 13, "expected type 'bool' but found 'string'"),
        (
            "n > 0 ? 1 : 'x'",
            7,
            "found no matching overload for '_?_:_' applied to '(bool, int, string)'",
        ),
        ("n in self", 3, "found no matching overload for '@in' applied to '(int, list(string))'"),
        (
            "self[0].contains(1)",
            17,
            "found no matching overload for 'contains' applied to 'string.(int)'",
        ),
        ("self.foo()", 9, "undeclared reference to 'foo' (in container '')"),
        ("m.a == 'x'", 5, "found no matching overload for '_==_' applied to '(int, string)'"),
        ("n == null", 3, "found no matching overload for '_==_' applied to '(int, null)'"),
        (
            "n.all(x, true)",
            1,
            "expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        ("[1, 'a'] == []", 5, "expected type 'int' but found 'string'"),
        ("'a'.matches('[')", 13, "invalid matches argument"),
        ("(n", 3, "Syntax error: missing ')' at '<EOF>'"),
        ("n n", 3, "Syntax error: extraneous input 'n' expecting <EOF>"),
    ] {
        let error = Program::compile(source, &variables).unwrap_err();
        let dots = ".".repeat(column - 1);
        let expected = format!("ERROR: <input>:1:{column}: {message}\n | {source}\n | {dots}^");
        assert_eq!(error, CompileError::Compilation(expected), "{source}");
    }
}

#[test]
fn macros_and_literals_are_checked_as_by_cel_go() {
    let no_overload = |name: &str, args: &str| {
        format!("found no matching overload for '{name}' applied to '{args}'")
    };
    let overwrites = || "iteration variable overwrites accumulator variable".to_owned();
    for (source, column, message) in [
        ("[1].all(i, i, true)", 12, "duplicate variable name: i".to_owned()),
        ("[1].map(__result__, 1) == []", 9, overwrites()),
        ("[1].exists(a, __result__, true)", 15, overwrites()),
        ("[1].map(1, 2) == [1]", 9, "argument is not an identifier".to_owned()),
        ("[1].all(1, true)", 9, "argument must be a simple name".to_owned()),
        (
            "n.optMap(1, 1) == n",
            10,
            "optMap() variable name must be a simple identifier".to_owned(),
        ),
        (
            "[1].transformMapEntry(i, v, v) == {}",
            22,
            no_overload("cel.@mapInsert", "(map(dyn, dyn), int)"),
        ),
        ("[1].map(i, i, 2) == []", 8, no_overload("_?_:_", "(int, list(int), list(int))")),
        (
            "{'a': 1}.filter(k, k) == []",
            16,
            no_overload("_?_:_", "(string, list(string), list(string))"),
        ),
        ("[1].exists_one(i, i)", 15, no_overload("_?_:_", "(int, int, int)")),
        (
            "optional.of(1).optFlatMap(v, v) == n",
            26,
            no_overload("_?_:_", "(bool, int, optional_type(dyn))"),
        ),
        ("[1, dyn('a')] == []", 8, "expected type 'int' but found 'dyn'".to_owned()),
        ("[null, 1] == []", 8, "expected type 'null' but found 'int'".to_owned()),
        ("{'a': 1, 'b': dyn(1)} == {}", 18, "expected type 'int' but found 'dyn'".to_owned()),
        ("duration(1) == n", 10, "invalid duration argument".to_owned()),
        ("timestamp(253402300800) == n", 11, "invalid timestamp argument".to_owned()),
        (
            "'%s'.format([1, 2]) == n",
            12,
            "too many arguments supplied to string.format (expected 1, got 2)".to_owned(),
        ),
        ("'%s %s'.format([1]) == n", 15, "index 1 out of range".to_owned()),
        (
            "'%d %d'.format([1, 'a']) == n",
            20,
            "error during formatting: decimal clause can only be used on integers, was given string"
                .to_owned(),
        ),
        ("'a%'.format(['a']) == n", 12, "unexpected end of string".to_owned()),
        (
            "'%-5d'.format([1]) == n",
            14,
            "could not parse formatting clause: unrecognized formatting clause \"-\"".to_owned(),
        ),
    ] {
        let error = Program::compile(source, &[("n", Type::Dyn)]).unwrap_err();
        let dots = ".".repeat(column - 1);
        let expected = format!("ERROR: <input>:1:{column}: {message}\n | {source}\n | {dots}^");
        assert_eq!(error, CompileError::Compilation(expected), "{source}");
    }
    let mixed = "'%s'.format([[1, 'a'].size()]) == n";
    assert!(Program::compile(mixed, &[("n", Type::Dyn)]).is_ok());
}

proptest! {
    /// Whatever is written, and whatever it is evaluated on, there is an answer.
    #[test]
    fn any_sequence_of_tokens_is_compiled_or_refused(
        tokens in proptest::collection::vec(proptest::sample::select(TOKENS), 0..12),
    ) {
        let this = json!({ "a": -1, "l": [1, "x", null], "m": { "k": {} }, "s": "äb" });
        let _ = evaluate(&tokens.concat(), &this);
        let _ = evaluate(&tokens.join(" "), &this);
    }
}

const TOKENS: &[&str] = &[
    "self",
    ".a",
    ".l",
    ".m",
    ".s",
    ".?",
    "x",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "?",
    "'ä'",
    "-1",
    "9223372036854775807",
    "2u",
    "1.5",
    "null",
    "true",
    "+",
    "-",
    "*",
    "/",
    "%",
    "==",
    "<",
    "!",
    "&&",
    "||",
    " in ",
    ".all(x,",
    ".map(x,",
    ".filter(x,",
    ".exists_one(x,",
    ".size()",
    ".split(",
    ".substring(",
    ".replace(",
    ".format(",
    ".indexOf(",
    ".slice(",
    ".flatten()",
    ".sort()",
    ".matches(",
    ".join(",
    "dyn(",
    "string(",
    "int(",
    "timestamp(",
    "duration(",
    "quantity(",
    "ip(",
    "cidr(",
    "url(",
    "optional.of(",
    "has(self.a",
    ".orValue(",
    ".charAt(",
    "b'\\xff'",
    "type(",
    "lists.range(",
    ".lastIndexOf(",
];

#[test]
fn field_named_by_a_reserved_word_is_found_with_and_without_escapes() {
    let mut this = Type::object("object", []);
    if let Type::Object(of) = &mut this {
        let namespace = super::types::Field { name: "namespace".to_owned(), kind: Type::Text };
        std::sync::Arc::make_mut(of).fields.insert("__namespace__".to_owned(), namespace);
    }
    let value = json!({ "namespace": "a" });
    for source in [
        "self.namespace == 'a'",
        "self.__namespace__ == 'a'",
        "has(self.namespace) && has(self.__namespace__)",
    ] {
        let program = Program::compile(source, &[("self", this.clone())]).unwrap();
        let found = program.run(&[("self", Val::of(&value, &this))], &mut Budget::default());
        assert!(matches!(found, Ok(Val::Bool(true))), "{source}");
    }
    let undefined = Program::compile("self.package == 'a'", &[("self", this)]).unwrap_err();
    assert!(undefined.of("rule").contains("undefined field 'package'"));
}

#[test]
fn message_names_what_is_wrong_once() {
    for (source, errors) in [
        // An operand with an error causes no other, but shows in those that it meets.
        ("self.n.trim() + 1", vec!["'trim' applied to 'int.()'"]),
        (
            "(self.n.trim() + 1).trim()",
            vec!["'trim' applied to 'int.()'", "'trim' applied to 'int.()'"],
        ),
        (
            "'a' - self.n.trim()",
            vec!["'_-_' applied to '(string, !error!)'", "'trim' applied to 'int.()'"],
        ),
        ("(1 && true).trim()", vec!["expected type 'bool' but found 'int'"]),
        ("1.map(x, x.y) == [2]", vec!["expression of type 'int' cannot be range"]),
        // Literals of several types count where nothing else is wrong.
        ("[1, 'a', 2u] == []", vec!["expected type 'int' but found 'string'"]),
        ("[1, 'a'].size() + 'a'", vec!["'_+_' applied to '(int, string)'"]),
    ] {
        let this = Type::object("object", [("n", Type::Int)]);
        let refused = Program::compile(source, &[("self", this)]).unwrap_err().of("rule");
        let found: Vec<&str> = refused.lines().filter(|line| line.contains("ERROR: ")).collect();
        assert_eq!(found.len(), errors.len(), "{source}: {found:?}");
        for (found, error) in found.iter().zip(errors) {
            assert!(found.contains(error), "{source}: {found}");
        }
    }
}

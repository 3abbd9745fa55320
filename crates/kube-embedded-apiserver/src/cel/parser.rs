//! The parser: precedence climbing over tokens, with the macros.

use crate::cel::{
    ast::{Expr, Kind, Macro, MacroKind},
    lexer::{Located, RESERVED, Token, TokenKind, tokens},
    library,
};

/// The limit to nesting, because expressions are walked recursively.
const DEPTH: usize = 100;
/// The limit to the code points of an expression (`expression code point size limit` of cel-go).
const SIZE: usize = 100_000;

/// The variable in which cel-go's macros collect their result.
const RESULT: &str = "__result__";

/// What may begin an expression, as cel-go's parser lists it.
const EXPECTED: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, \
                        NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Parses an expression.
///
/// # Errors
/// A syntax error and its place.
pub(super) fn parse(source: &str) -> Result<Expr, Vec<Located>> {
    let chars: Vec<char> = source.chars().collect();
    let size = chars.len();
    if size > SIZE {
        let message =
            format!("expression code point size exceeds limit: size: {size}, limit {SIZE}");
        return Err(vec![(0, message)]);
    }
    let (tokens, mut errors) = tokens(&chars);
    let mut parser = Parser { chars, tokens, next: 0, depth: 0, nodes: 0 };
    match parser.whole() {
        Ok(expr) if errors.is_empty() => Ok(expr),
        Ok(_) => Err(errors),
        Err(error) => {
            errors.push(error);
            Err(errors)
        }
    }
}

struct Parser {
    chars: Vec<char>,
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
    /// How many nodes were made.
    nodes: usize,
}

/// The function and the precedence of a binary operator.
fn binary(symbol: &str) -> Option<(&'static str, u8)> {
    Some(match symbol {
        "||" => ("_||_", 1),
        "&&" => ("_&&_", 2),
        "==" => ("_==_", 3),
        "!=" => ("_!=_", 3),
        "<" => ("_<_", 3),
        "<=" => ("_<=_", 3),
        ">" => ("_>_", 3),
        ">=" => ("_>=_", 3),
        "in" => ("@in", 3),
        "+" => ("_+_", 4),
        "-" => ("_-_", 4),
        "*" => ("_*_", 5),
        "/" => ("_/_", 5),
        "%" => ("_%_", 5),
        _ => return None,
    })
}

fn call(name: &str, method: bool, args: Vec<Expr>) -> Kind {
    Kind::Call { name: name.to_owned(), function: library::function(name), method, args }
}

impl Parser {
    fn token(&self) -> &Token {
        // The last token is the end, which is never passed.
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    /// A token in messages.
    fn shown(&self, token: &Token) -> String {
        match self.chars.get(token.at..token.end) {
            Some(text) if token.kind != TokenKind::End => text.iter().collect(),
            _ => "<EOF>".to_owned(),
        }
    }

    fn whole(&mut self) -> Result<Expr, Located> {
        let expr = self.expression()?;
        match self.token() {
            Token { kind: TokenKind::End, .. } => Ok(expr),
            token => {
                let what = self.shown(token);
                Err((token.at, format!("Syntax error: extraneous input '{what}' expecting <EOF>")))
            }
        }
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(&self.token().kind, TokenKind::Symbol(given) if *given == symbol)
    }

    /// Passes a symbol, if it is next.
    fn take(&mut self, symbol: &str) -> bool {
        let found = self.is(symbol);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<(), Located> {
        if self.take(symbol) {
            return Ok(());
        }
        let token = self.token();
        let what = self.shown(token);
        Err((
            token.at,
            match symbol {
                ")" => format!("Syntax error: missing ')' at '{what}'"),
                "]" | "}" => {
                    format!("Syntax error: mismatched input '{what}' expecting {{'{symbol}', ','}}")
                }
                _ => format!("Syntax error: mismatched input '{what}' expecting '{symbol}'"),
            },
        ))
    }

    /// Makes a node, unless it is nested too deeply.
    fn node(&mut self, at: usize, kind: Kind) -> Result<Expr, Located> {
        let deepest = |all: &[Expr]| all.iter().map(|one| one.depth).max().unwrap_or(0);
        let depth = 1 + match &kind {
            Kind::Select { of, .. } | Kind::Has { of, .. } => of.depth,
            Kind::Call { args, .. } => deepest(args),
            Kind::And(all) | Kind::Or(all) => deepest(all),
            Kind::Conditional(all) => deepest(&**all),
            Kind::List(all) => all.iter().map(|(one, _)| one.depth).max().unwrap_or(0),
            Kind::Map(all) => all.iter().map(|(k, v)| k.depth.max(v.depth)).max().unwrap_or(0),
            Kind::Macro(of) => {
                let below = [&of.condition, &of.body].into_iter().flatten();
                below.map(|one| one.depth).max().unwrap_or(0).max(of.over.depth)
            }
            _ => 0,
        };
        if depth > DEPTH {
            return Err((at, format!("expression recursion limit exceeded: {DEPTH}")));
        }
        self.nodes += 1;
        let is_constant = kind.is_constant();
        Ok(Expr { id: self.nodes, at, kind, is_constant, depth })
    }

    fn expression(&mut self) -> Result<Expr, Located> {
        self.depth += 1;
        if self.depth > DEPTH {
            let at = self.token().at;
            return Err((at, format!("expression recursion limit exceeded: {DEPTH}")));
        }
        let condition = self.binary(1)?;
        let at = self.token().at;
        let expr = if self.take("?") {
            let yes = self.binary(1)?;
            self.expect(":")?;
            let no = self.expression()?;
            self.node(at, Kind::Conditional(Box::new([condition, yes, no])))?
        } else {
            condition
        };
        self.depth -= 1;
        Ok(expr)
    }

    /// An expression of operators that bind at least so tightly.
    fn binary(&mut self, least: u8) -> Result<Expr, Located> {
        let mut left = self.unary()?;
        loop {
            let Token { at, kind: TokenKind::Symbol(symbol), .. } = *self.token() else {
                return Ok(left);
            };
            let Some((name, precedence)) = binary(symbol).filter(|(_, this)| *this >= least) else {
                return Ok(left);
            };
            self.next += 1;
            let right = self.binary(precedence + 1)?;
            left = match (symbol, left) {
                ("&&", Expr { kind: Kind::And(mut all), at, .. }) => {
                    all.push(right);
                    self.node(at, Kind::And(all))?
                }
                ("||", Expr { kind: Kind::Or(mut all), at, .. }) => {
                    all.push(right);
                    self.node(at, Kind::Or(all))?
                }
                ("&&", left) => self.node(at, Kind::And(vec![left, right]))?,
                ("||", left) => self.node(at, Kind::Or(vec![left, right]))?,
                (_, left) => self.node(at, call(name, false, vec![left, right]))?,
            };
        }
    }

    fn unary(&mut self) -> Result<Expr, Located> {
        let at = self.token().at;
        let mut operators = Vec::new();
        while self.is("!") || self.is("-") {
            operators.push(if self.is("!") { "!_" } else { "-_" });
            self.next += 1;
        }
        // The sign of a number, unless there are more than one.
        if matches!(&operators[..], [.., "-_"])
            && !matches!(&operators[..], [.., "-_", "-_"])
            && let Some(kind) = self.negative()?
        {
            operators.pop();
            let number = self.node(at, kind)?;
            return self.wrapped(at, operators, number);
        }
        let operand = self.postfix()?;
        self.wrapped(at, operators, operand)
    }

    fn wrapped(&mut self, at: usize, operators: Vec<&str>, of: Expr) -> Result<Expr, Located> {
        // Two of the same cancel each other, as in cel-go.
        let mut left: Vec<&str> = Vec::new();
        for operator in operators {
            match left.last() {
                Some(before) if *before == operator => {
                    left.pop();
                }
                _ => left.push(operator),
            }
        }
        left.into_iter().rev().try_fold(of, |of, name| self.node(at, call(name, false, vec![of])))
    }

    /// A number after a minus: the least integer has no positive counterpart.
    fn negative(&mut self) -> Result<Option<Kind>, Located> {
        let Token { at, kind, .. } = self.token().clone();
        let after = self.tokens.get(self.next + 1).map(|token| &token.kind);
        if matches!(after, Some(TokenKind::Symbol("." | "["))) {
            return Ok(None);
        }
        let kind = match kind {
            TokenKind::Int(digits) => int(at, &digits, true)?,
            TokenKind::Double(number) => Kind::Double(-number),
            _ => return Ok(None),
        };
        self.next += 1;
        Ok(Some(kind))
    }

    /// A value with the selections, indices and calls after it.
    fn postfix(&mut self) -> Result<Expr, Located> {
        let mut expr = self.primary()?;
        loop {
            let at = self.token().at;
            if self.take(".") {
                let optional = self.take("?");
                let name = self.name()?;
                let paren = self.token().at;
                expr = if !optional && self.take("(") {
                    let args = self.arguments(")")?;
                    self.method(paren, name, expr, args)?
                } else {
                    self.node(at, Kind::Select { of: Box::new(expr), field: name, optional })?
                };
            } else if self.take("[") {
                let function = if self.take("?") { "_[?_]" } else { "_[_]" };
                let index = self.expression()?;
                self.expect("]")?;
                expr = self.node(at, call(function, false, vec![expr, index]))?;
            } else if self.is("{") && is_name(&expr) {
                return Err((
                    at,
                    format!("undeclared reference to '{}' (in container '')", path(&expr)),
                ));
            } else {
                return Ok(expr);
            }
        }
    }

    fn keyword(at: usize, name: &str) -> Result<(), Located> {
        match RESERVED.contains(&name) {
            true => Err((at, format!("reserved identifier: {name}"))),
            false => Ok(()),
        }
    }

    fn name(&mut self) -> Result<String, Located> {
        let token = self.token().clone();
        let what = match token.kind {
            TokenKind::Ident(name) => {
                self.next += 1;
                return Ok(name);
            }
            TokenKind::End => String::new(),
            _ => self.shown(&token),
        };
        Err((token.at, format!("Syntax error: no viable alternative at input '.{what}'")))
    }

    fn arguments(&mut self, close: &str) -> Result<Vec<Expr>, Located> {
        let mut all = Vec::new();
        while !self.take(close) {
            all.push(self.expression()?);
            if !self.take(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(all)
    }

    fn primary(&mut self) -> Result<Expr, Located> {
        let token = self.token().clone();
        let Token { at, kind, .. } = token.clone();
        self.next += usize::from(kind != TokenKind::End);
        let kind = match kind {
            TokenKind::Int(digits) => int(at, &digits, false)?,
            TokenKind::Uint(digits) => match radix(&digits, u64::from_str_radix) {
                Some(number) => Kind::Uint(number),
                None => return Err((at, "invalid uint literal".to_owned())),
            },
            TokenKind::Double(number) => Kind::Double(number),
            TokenKind::Text(text) => Kind::Text(text),
            TokenKind::Bytes(bytes) => Kind::Bytes(bytes),
            TokenKind::Ident(name) => return self.named(at, name),
            TokenKind::Symbol("true") => Kind::Bool(true),
            TokenKind::Symbol("false") => Kind::Bool(false),
            TokenKind::Symbol("null") => Kind::Null,
            TokenKind::Symbol(".") => {
                // A name from the root; there are no containers.
                let at = self.token().at;
                let name = self.name()?;
                return self.named(at, name);
            }
            TokenKind::Symbol("(") => {
                let inside = self.expression()?;
                self.expect(")")?;
                return Ok(match inside.kind {
                    // What is in brackets is a term of its own.
                    Kind::And(_) => self.node(inside.at, Kind::Or(vec![inside]))?,
                    Kind::Or(_) => self.node(inside.at, Kind::And(vec![inside]))?,
                    _ => inside,
                });
            }
            TokenKind::Symbol("[") => self.list()?,
            TokenKind::Symbol("{") => self.map()?,
            _ => {
                let what = self.shown(&token);
                let message =
                    format!("Syntax error: mismatched input '{what}' expecting {EXPECTED}");
                return Err((at, message));
            }
        };
        self.node(at, kind)
    }

    fn list(&mut self) -> Result<Kind, Located> {
        let mut all = Vec::new();
        while !self.take("]") {
            let optional = self.take("?");
            all.push((self.expression()?, optional));
            if !self.take(",") {
                self.expect("]")?;
                break;
            }
        }
        Ok(Kind::List(all))
    }

    fn map(&mut self) -> Result<Kind, Located> {
        let mut all = Vec::new();
        while !self.take("}") {
            let key = self.expression()?;
            self.expect(":")?;
            all.push((key, self.expression()?));
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(Kind::Map(all))
    }

    /// A variable, or a call of a function.
    fn named(&mut self, at: usize, name: String) -> Result<Expr, Located> {
        let paren = self.token().at;
        if !self.take("(") {
            Self::keyword(at, &name)?;
            return self.node(at, Kind::Ident(name));
        }
        let mut args = self.arguments(")")?;
        if name == "has" && args.len() == 1 {
            let arg = args.remove(0);
            return match arg.kind {
                // `has(has(a.b))` is `has(a.b)`.
                Kind::Select { of, field, optional: false } | Kind::Has { of, field } => {
                    self.node(paren, Kind::Has { of, field })
                }
                _ => Err((arg.at, "invalid argument to has() macro".to_owned())),
            };
        }
        self.node(paren, call(&name, false, args))
    }

    /// A method, or a macro.
    fn method(
        &mut self,
        at: usize,
        name: String,
        of: Expr,
        args: Vec<Expr>,
    ) -> Result<Expr, Located> {
        if is_name(&of) && library::function(&format!("{}.{name}", path(&of))).is_some() {
            return self.node(at, call(&format!("{}.{name}", path(&of)), false, args));
        }
        let Some(Form { kind, two, condition, body }) = form(&name, args.len()) else {
            let mut all = vec![of];
            all.extend(args);
            return self.node(at, call(&name, true, all));
        };
        let mut args = args.into_iter();
        let mut variable = || match args.next() {
            Some(Expr { kind: Kind::Ident(name), at, .. }) => Ok((name, at)),
            other => {
                let at = other.map_or(at, |other| other.at);
                Err((at, not_a_variable(kind, two, &name)))
            }
        };
        let first = variable()?;
        let second = if two { Some(variable()?) } else { None };
        if let Some((name, at)) = second.as_ref().filter(|(name, _)| *name == first.0) {
            return Err((*at, format!("duplicate variable name: {name}")));
        }
        let is_result = |(name, _): &&(String, usize)| name == RESULT;
        if let Some((_, at)) = [Some(&first), second.as_ref()].into_iter().flatten().find(is_result)
            && !matches!(kind, MacroKind::OptMap | MacroKind::OptFlatMap)
        {
            return Err((*at, "iteration variable overwrites accumulator variable".to_owned()));
        }
        let condition = if condition { args.next() } else { None };
        let body = if body { args.next() } else { None };
        let (variable, second) = (first.0, second.map(|(name, _)| name));
        let of = Macro { kind, over: of, variable, second, condition, body };
        self.node(at, Kind::Macro(Box::new(of)))
    }
}

/// The parts of a macro after what it is called on.
struct Form {
    kind: MacroKind,
    /// It has a second variable.
    two: bool,
    condition: bool,
    body: bool,
}

/// Returns the form of the macro of a name with a number of arguments.
fn form(name: &str, arguments: usize) -> Option<Form> {
    use MacroKind::{
        All, Exists, ExistsOne, Filter, Map, OptFlatMap, OptMap, SortBy, TransformMap,
        TransformMapEntry,
    };
    let (kind, two, condition, body) = match (name, arguments) {
        ("all", 2) => (All, false, true, false),
        ("all", 3) => (All, true, true, false),
        ("exists", 2) => (Exists, false, true, false),
        ("exists", 3) => (Exists, true, true, false),
        ("exists_one", 2) => (ExistsOne, false, true, false),
        ("exists_one" | "existsOne", 3) => (ExistsOne, true, true, false),
        ("filter", 2) => (Filter, false, true, false),
        ("map", 2) => (Map, false, false, true),
        ("map", 3) => (Map, false, true, true),
        ("transformList", 3) => (Map, true, false, true),
        ("transformList", 4) => (Map, true, true, true),
        ("transformMap", 3) => (TransformMap, true, false, true),
        ("transformMap", 4) => (TransformMap, true, true, true),
        ("transformMapEntry", 3) => (TransformMapEntry, true, false, true),
        ("transformMapEntry", 4) => (TransformMapEntry, true, true, true),
        ("sortBy", 2) => (SortBy, false, false, true),
        ("optMap", 2) => (OptMap, false, false, true),
        ("optFlatMap", 2) => (OptFlatMap, false, false, true),
        _ => return None,
    };
    Some(Form { kind, two, condition, body })
}

/// The message for an argument of a macro that is to be a variable.
fn not_a_variable(kind: MacroKind, two: bool, name: &str) -> String {
    match kind {
        MacroKind::OptMap | MacroKind::OptFlatMap => {
            format!("{name}() variable name must be a simple identifier")
        }
        MacroKind::Filter | MacroKind::Map | MacroKind::SortBy if !two => {
            "argument is not an identifier".to_owned()
        }
        _ => "argument must be a simple name".to_owned(),
    }
}

fn int(at: usize, digits: &str, negative: bool) -> Result<Kind, Located> {
    let number = radix(digits, i128::from_str_radix).map(|n| if negative { -n } else { n });
    match number.and_then(|number| i64::try_from(number).ok()) {
        Some(number) => Ok(Kind::Int(number)),
        None => Err((at, "invalid int literal".to_owned())),
    }
}

fn radix<N>(
    digits: &str,
    parse: impl Fn(&str, u32) -> Result<N, std::num::ParseIntError>,
) -> Option<N> {
    match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hex) => parse(hex, 16).ok(),
        None => parse(digits, 10).ok(),
    }
}

/// Returns true for a variable or selections from one: what may be the name of a function.
fn is_name(expr: &Expr) -> bool {
    match &expr.kind {
        Kind::Ident(_) => true,
        Kind::Select { of, optional: false, .. } => is_name(of),
        _ => false,
    }
}

fn path(expr: &Expr) -> String {
    match &expr.kind {
        Kind::Ident(name) => name.clone(),
        Kind::Select { of, field, .. } => format!("{}.{field}", path(of)),
        _ => String::new(),
    }
}

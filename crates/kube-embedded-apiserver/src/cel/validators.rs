//! The validators of cel-go: errors of literals, which it reports before anything is evaluated. They see only
//! expressions whose types are right.

use crate::{
    cel::{
        ast::{Expr, Kind},
        lexer::Located,
        library::format::{AT_END, Clause, Malformed, Piece, Pieces, refusal},
        timestamp::Timestamp,
        types::Type,
        value::parse_duration,
    },
    pattern::Pattern,
};

/// Returns the error of the literals of a call, and its place.
pub(super) fn literal_error(
    call: &Expr,
    (name, method): (&str, bool),
    args: &[Expr],
    type_of: &impl Fn(&Expr) -> Type,
) -> Option<Located> {
    if let ("format", true, [template, Expr { kind: Kind::List(all), .. }]) = (name, method, args) {
        let elements: Vec<&Expr> = all.iter().map(|(one, _)| one).collect();
        let (of, message) = check_template(template.text()?, &elements, type_of).err()?;
        return Some((of.map_or(call.at, |of| of.at), message));
    }
    let arg = args.get(usize::from(name == "matches"))?;
    let is_valid = match (name, &arg.kind) {
        ("matches", Kind::Text(literal)) => !method || Pattern::new(literal).is_ok(),
        ("duration", Kind::Text(literal)) => parse_duration(literal).is_some(),
        ("duration", Kind::Int(_)) => false,
        ("timestamp", Kind::Text(literal)) => Timestamp::parse(literal).is_some(),
        ("timestamp", Kind::Int(seconds)) => Timestamp::from_seconds(*seconds).is_some(),
        _ => true,
    };
    (!is_valid).then(|| (arg.at, format!("invalid {name} argument")))
}

/// Checks the elements of a literal list against a literal template. Returns the element at fault, if it is one,
/// and the error.
fn check_template<'e>(
    template: &str,
    elements: &[&'e Expr],
    type_of: &impl Fn(&Expr) -> Type,
) -> Result<(), (Option<&'e Expr>, String)> {
    let mut count = 0;
    for piece in Pieces(template) {
        let Piece::Clause(clause) = piece else { continue };
        if matches!(clause, Err(Malformed::End)) {
            return Err((None, AT_END.to_owned()));
        }
        let Some(element) = elements.get(count) else {
            return Err((None, format!("index {count} out of range")));
        };
        match clause {
            Ok(Clause { verb, .. }) => {
                if let Some(bad) = misfit(verb, element, type_of) {
                    let why = refusal(verb, &type_of(bad).runtime_name());
                    return Err((Some(bad), format!("error during formatting: {why}")));
                }
            }
            Err(Malformed::Other(why)) => return Err((None, why)),
            Err(Malformed::End) => {}
        }
        count += 1;
    }
    match elements.len() {
        given if given > count => {
            let what = "too many arguments supplied to string.format";
            Err((None, format!("{what} (expected {count}, got {given})")))
        }
        _ => Ok(()),
    }
}

/// Returns the expression of a type that a clause cannot show.
fn misfit<'e>(verb: char, expr: &'e Expr, type_of: &impl Fn(&Expr) -> Type) -> Option<&'e Expr> {
    let fits = match (type_of(expr), verb) {
        (Type::Dyn | Type::Error, _) => true,
        (Type::Object(_) | Type::Opaque(_) | Type::Optional(_) | Type::Param(_), 's') => false,
        (_, 's') => true,
        (Type::Int | Type::Uint, 'd' | 'b' | 'o' | 'x' | 'X') | (Type::Bool, 'b') => true,
        (Type::Text | Type::Bytes, 'x' | 'X') | (Type::Double | Type::Text, 'f' | 'e') => true,
        _ => false,
    };
    if !fits {
        return Some(expr);
    }
    match &expr.kind {
        Kind::List(all) if verb == 's' => {
            all.iter().find_map(|(one, _)| misfit(verb, one, type_of))
        }
        Kind::Map(all) if verb == 's' => all.iter().find_map(|(key, value)| {
            misfit(verb, key, type_of).or_else(|| misfit(verb, value, type_of))
        }),
        _ => None,
    }
}

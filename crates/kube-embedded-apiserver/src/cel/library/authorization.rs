//! Checks of permissions. Without the variable `authorizer` there is nothing to call them on.

use super::{operators::text, table::Row};
use crate::{
    cel::{
        authorization::{Authorization, Authorizer, Check},
        budget::{Budget, EvalError},
        value::Val,
    },
    validation::names::{dns_label, dns_subdomain},
};
use std::rc::Rc;

type Evaluated<'a> = Result<Val<'a>, EvalError>;

const NARROWED: &[&str] = &["resourcecheck.(string) resourcecheck"];

pub(super) const TABLE: &[Row] = &[
    Row("path", &["authorizer.(string) pathcheck"], |args, _| {
        let check = Check { path: Some(given(args, "path")?.to_owned()), ..Check::default() };
        Ok(Val::Authorization(Authorization::Path(authorizer(args)?.clone(), Rc::new(check))))
    }),
    Row("group", &["authorizer.(string) groupcheck"], |args, _| {
        let check = Check { group: argument(args)?.to_owned(), ..Check::default() };
        Ok(Val::Authorization(Authorization::Group(authorizer(args)?.clone(), Rc::new(check))))
    }),
    Row("serviceAccount", &["authorizer.(string, string) authorizer"], service_account),
    Row("resource", &["groupcheck.(string) resourcecheck"], |args, _| match args {
        [Val::Authorization(Authorization::Group(of, check)), _] => {
            let resource = given(args, "resource")?.to_owned();
            let check = Check { resource, ..(**check).clone() };
            Ok(Val::Authorization(Authorization::Resource(of.clone(), Rc::new(check))))
        }
        _ => Err(EvalError::Overload),
    }),
    Row("subresource", NARROWED, |args, _| narrow(args, |check, to| check.subresource = to)),
    Row("namespace", NARROWED, |args, _| narrow(args, |check, to| check.namespace = to)),
    Row("name", NARROWED, |args, _| narrow(args, |check, to| check.name = to)),
    // RBAC looks at no selector.
    Row("fieldSelector", NARROWED, |args, _| narrow(args, |_, _| {})),
    Row("labelSelector", NARROWED, |args, _| narrow(args, |_, _| {})),
    Row("check", &["pathcheck.(string) decision", "resourcecheck.(string) decision"], |args, _| {
        let (
            Some(Val::Authorization(
                Authorization::Path(of, check) | Authorization::Resource(of, check),
            )),
            verb,
        ) = (args.first(), argument(args)?)
        else {
            return Err(EvalError::Overload);
        };
        let decision = of.backend.authorize(of.service_account.as_deref(), check, verb);
        Ok(Val::Authorization(Authorization::Decision(Rc::new(decision))))
    }),
    Row("allowed", &["decision.() bool"], |args, _| match args {
        [Val::Authorization(Authorization::Decision(of))] => Ok(Val::Bool(of.allowed)),
        _ => Err(EvalError::Overload),
    }),
    Row("reason", &["decision.() string"], |args, _| match args {
        [Val::Authorization(Authorization::Decision(of))] => Ok(Val::text(&*of.reason)),
        _ => Err(EvalError::Overload),
    }),
    Row("errored", &["decision.() bool"], |args, _| match args {
        [Val::Authorization(Authorization::Decision(of))] => Ok(Val::Bool(!of.error.is_empty())),
        _ => Err(EvalError::Overload),
    }),
    Row("error", &["decision.() string"], |args, _| match args {
        [Val::Authorization(Authorization::Decision(of))] => Ok(Val::text(&*of.error)),
        _ => Err(EvalError::Overload),
    }),
];

fn authorizer<'v, 'a>(args: &'v [Val<'a>]) -> Result<&'v Authorizer<'a>, EvalError> {
    match args.first() {
        Some(Val::Authorization(Authorization::Authorizer(of))) => Ok(of),
        _ => Err(EvalError::Overload),
    }
}

/// The argument of a method.
fn argument<'v>(args: &'v [Val<'_>]) -> Result<&'v str, EvalError> {
    args.get(1).ok_or(EvalError::Overload).and_then(text)
}

/// An argument that says something.
fn given<'v>(args: &'v [Val<'_>], what: &str) -> Result<&'v str, EvalError> {
    let text = argument(args)?;
    match text.trim().is_empty() {
        true => EvalError::fail(format!("{what} must not be empty")),
        false => Ok(text),
    }
}

fn narrow<'a>(args: &[Val<'a>], set: fn(&mut Check, String)) -> Evaluated<'a> {
    let Some(Val::Authorization(Authorization::Resource(of, check))) = args.first() else {
        return Err(EvalError::Overload);
    };
    let mut check = (**check).clone();
    set(&mut check, argument(args)?.to_owned());
    Ok(Val::Authorization(Authorization::Resource(of.clone(), Rc::new(check))))
}

fn service_account<'a>(args: &[Val<'a>], _: &mut Budget) -> Evaluated<'a> {
    let (of, namespace) = (authorizer(args)?, argument(args)?);
    let name = args.get(2).ok_or(EvalError::Overload).and_then(text)?;
    if !dns_subdomain(name).is_empty() {
        return EvalError::fail("Invalid service account name");
    }
    if !dns_label(namespace).is_empty() {
        return EvalError::fail("Invalid service account namespace");
    }
    let account = Some(Rc::new((namespace.to_owned(), name.to_owned())));
    let authorizer = Authorizer { service_account: account, ..of.clone() };
    Ok(Val::Authorization(Authorization::Authorizer(authorizer)))
}

//! The list of steps is complete, and nothing in the docs differs from it.

use super::*;
use crate::fixture::environment;
use crate::lab::Lab;
use crate::phases;
use std::collections::BTreeSet;

const HERE: Target<'static> = Target { namespace: "production", environment: None };

#[test]
fn every_claim_belongs_to_exactly_one_step() {
    for lab in phases::ALL {
        let proved: Vec<&str> = lab.steps.iter().flat_map(|step| step.proves).copied().collect();
        let unique: BTreeSet<&str> = proved.iter().copied().collect();
        let claims: BTreeSet<&str> = lab.claims.iter().map(|claim| claim.id).collect();
        assert_eq!((unique.len(), &unique), (proved.len(), &claims), "{}", lab.name);
        let ids: BTreeSet<&str> = lab.steps.iter().map(|step| step.id).collect();
        assert_eq!(ids.len(), lab.steps.len(), "{}", lab.name);
    }
}

#[test]
fn every_step_says_what_it_shows_and_what_to_type() {
    for step in phases::ALL.iter().flat_map(|lab| lab.steps) {
        let sentences = step.shows.matches(". ").count() + 1;
        assert!(sentences == 2 && step.shows.ends_with('.'), "{}: {}", step.id, step.shows);
        assert!(!step.commands.is_empty() && !step.look.is_empty(), "{}", step.id);
        assert!(step.hints.iter().all(|hint| hint.len() > 10), "{}", step.id);
        let last = step.hint(2, HERE);
        assert!(step.commands.iter().all(|command| last.contains(&command.text(HERE))));
        assert_eq!(step.hint(9, HERE), last);
    }
}

#[test]
fn manifests_that_steps_apply_exist() {
    let environment = environment();
    for step in phases::ALL.iter().flat_map(|lab| lab.steps) {
        for command in step.commands {
            if let Command::Apply(file) | Command::ApplyEdited(file, _) = command {
                assert!(environment.manifests.join(file).is_file(), "{}: {file}", step.id);
            }
        }
    }
}

#[test]
fn commands_are_those_of_the_cluster_at_hand() {
    let mut environment = environment();
    let text = |command: Command, environment: &_| {
        command.text(Target { namespace: "mine", environment: Some(environment) })
    };
    let apply = Command::Apply("lb/app-lb.yml");
    let image = Command::Kubectl("set image deployment/a kubeapp={canary}");
    assert_eq!(
        text(apply, &environment),
        "kubectl --namespace=mine apply -f manifests/lb/app-lb.yml"
    );
    assert_eq!(
        text(image, &environment),
        "kubectl --namespace=mine set image deployment/a kubeapp=kubeapp:2.0"
    );
    environment.images[1].name = "registry/kubeapp:2.0".into();
    assert!(text(image, &environment).ends_with("kubeapp=registry/kubeapp:2.0"));
    assert_eq!(
        text(apply, &environment),
        "sed -e 's#image: kubeapp:2.0$#image: registry/kubeapp:2.0#' manifests/lb/app-lb.yml \
         | kubectl --namespace=mine apply -f -"
    );
    let look = Command::Look("kubectl --namespace get pods");
    assert_eq!(text(look, &environment), "kubectl --namespace=mine get pods");
}

/// Formats the table of `docs/article.md`: which step and which claims stand for each statement of the
/// article.
fn article_table(labs: &[Lab]) -> String {
    let mut text = String::from("| the article | step | claims |\n|---|---|---|\n");
    for lab in labs {
        for step in lab.steps {
            let claims: Vec<_> = step.proves.iter().map(|claim| format!("`{claim}`")).collect();
            let claims = if claims.is_empty() { "none".to_owned() } else { claims.join(", ") };
            for sentence in step.article {
                let name = lab.name;
                _ = writeln!(text, "| {sentence} | {name}: {} | {claims} |", step.title);
            }
        }
    }
    text
}

#[test]
fn table_of_the_article_is_that_of_the_steps() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/article.md");
    let page = std::fs::read_to_string(file).unwrap_or_default();
    let table = article_table(phases::ALL);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let (head, _) = page.split_once("| the article |").unwrap();
        std::fs::write(file, format!("{head}{table}")).unwrap();
        return;
    }
    assert!(page.ends_with(&table), "run this test with UPDATE_DOCS=1 to write docs/article.md");
}

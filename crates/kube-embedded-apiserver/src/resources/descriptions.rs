//! The descriptions of the columns of Tables. Most are those of the fields that the columns show, as k8s-openapi has them.

use crate::{
    resources::{
        registry,
        table_columns::{Column, OF_CREATION, OF_NAME},
    },
    schema::tree,
};
use serde_json::Value;
use std::{collections::HashMap, sync::LazyLock};

/// Those of fields, by `#/STRUCTURE/FIELD`. Made when the first client asks for a Table.
static OF_FIELDS: LazyLock<HashMap<&'static str, String>> = LazyLock::new(|| {
    let definitions = tree::definitions(registry::all().iter().map(|resource| resource.define));
    let columns = registry::all().iter().flat_map(|resource| resource.columns);
    let references = columns.map(|column| column.description).chain([OF_NAME, OF_CREATION]);
    references
        .filter_map(|reference| {
            let (structure, field) = split(reference)?;
            let described =
                definitions.get(structure)?["properties"][field]["description"].as_str()?;
            // The values of an enumeration follow.
            let text = described.split("\n\nPossible enum values").next().unwrap_or_default();
            Some((reference, text.to_owned()))
        })
        .collect()
});

/// Returns the description of a column.
pub(crate) fn of(column: &Column) -> Value {
    match split(column.description) {
        Some(_) => OF_FIELDS.get(column.description).map_or("", String::as_str).into(),
        None => column.description.into(),
    }
}

/// Splits a reference to a field; `None` for a text.
fn split(description: &str) -> Option<(&str, &str)> {
    description.strip_prefix("#/")?.split_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_described() {
        for resource in registry::all() {
            for column in resource.columns {
                let description = of(column);
                let text = description.as_str().unwrap_or_default();
                assert!(!text.is_empty() && !text.starts_with('#'), "{resource:?} {}", column.name);
            }
        }
    }

    #[test]
    fn description_is_that_of_the_field() {
        let services = registry::find("", "v1", "services").unwrap();
        let column = services.columns.iter().find(|column| column.name == "Type").unwrap();
        let text = of(column);
        let text = text.as_str().unwrap();
        assert!(text.starts_with("type determines how the Service is exposed. Defaults to"));
        assert!(!text.contains("Possible enum values"));
    }
}

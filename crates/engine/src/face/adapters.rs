//! The model's names and its LoRA adapters.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use serde_json::{Value, json};

/// A LoRA adapter. Nothing is read from its path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Adapter {
    /// What requests call it in `model`.
    pub name: String,
    /// Where its weights would be.
    pub path: String,
}

/// What a replica serves. Adapters come and go while it runs.
#[derive(Debug)]
pub(crate) struct Catalogue {
    names: Vec<String>,
    adapters: RefCell<Vec<Loaded>>,
    /// The next adapter's.
    number: Cell<u32>,
}

#[derive(Debug)]
struct Loaded {
    name: Rc<str>,
    path: String,
    number: u32,
}

/// What a request asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Served {
    Base,
    Adapter {
        name: Rc<str>,
        /// Never used again for another.
        number: u32,
    },
}

impl Catalogue {
    pub(crate) fn new(names: &[String], adapters: &[Adapter]) -> Self {
        let catalogue =
            Self { names: names.to_vec(), adapters: RefCell::new(Vec::new()), number: Cell::new(1) };
        for Adapter { name, path } in adapters {
            catalogue.load(name, path);
        }
        catalogue
    }

    /// The model's first name.
    pub(crate) fn base(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// What `model` means; without a name, the base model.
    pub(crate) fn find(&self, model: &str) -> Option<Served> {
        if model.is_empty() || self.names.iter().any(|name| name == model) {
            return Some(Served::Base);
        }
        let adapters = self.adapters.borrow();
        let loaded = adapters.iter().find(|loaded| *loaded.name == *model)?;
        Some(Served::Adapter { name: loaded.name.clone(), number: loaded.number })
    }

    /// False if the name is taken.
    pub(crate) fn load(&self, name: &str, path: &str) -> bool {
        let free = self.find(name).is_none();
        if free {
            let number = self.number.get();
            self.number.set(number + 1);
            self.adapters.borrow_mut().push(Loaded { name: name.into(), path: path.to_owned(), number });
        }
        free
    }

    /// False if there is no such adapter. Requests that use it go on.
    pub(crate) fn unload(&self, name: &str) -> bool {
        let mut adapters = self.adapters.borrow_mut();
        let before = adapters.len();
        adapters.retain(|loaded| *loaded.name != *name);
        adapters.len() < before
    }

    /// The answer to `/v1/models`.
    pub(crate) fn to_json(&self, created: u64, max_model_len: u32) -> Value {
        let card = |id: &str, root: &str, parent: Option<&str>, length: Option<u32>| {
            json!({
                "id": id, "object": "model", "created": created, "owned_by": "vllm",
                "root": root, "parent": parent, "max_model_len": length,
            })
        };
        let base = self.base();
        let models = self.names.iter().map(|name| card(name, base, None, Some(max_model_len)));
        let adapters = self.adapters.borrow();
        let adapters = adapters.iter().map(|loaded| card(&loaded.name, &loaded.path, Some(base), None));
        json!({"object": "list", "data": models.chain(adapters).collect::<Vec<_>>()})
    }
}

impl Served {
    /// What the scheduler calls it.
    pub(crate) fn number(&self) -> u32 {
        match self {
            Self::Base => 0,
            Self::Adapter { number, .. } => *number,
        }
    }

    /// The adapter's name.
    pub(crate) fn adapter(&self) -> Option<&str> {
        match self {
            Self::Base => None,
            Self::Adapter { name, .. } => Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_come_and_go() {
        let catalogue = Catalogue::new(&["base".to_owned(), "alias".to_owned()], &[]);
        assert_eq!(catalogue.find("alias"), Some(Served::Base));
        assert_eq!(catalogue.find("sql"), None);
        assert!(catalogue.load("sql", "/sql"));
        assert!(!catalogue.load("sql", "/other"), "loaded already");
        assert!(!catalogue.load("base", "/base"), "a model has that name");
        let list = catalogue.to_json(7, 100);
        assert_eq!(
            list["data"][2],
            json!({
                "id": "sql", "object": "model", "created": 7, "owned_by": "vllm",
                "root": "/sql", "parent": "base", "max_model_len": null,
            })
        );
        assert!(catalogue.unload("sql"));
        assert!(!catalogue.unload("sql"));
        assert_eq!(catalogue.find("sql"), None);
    }
}

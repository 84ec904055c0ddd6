//! What wit-bindgen makes of `wit/`: the records, the imports, and the macro that exports a world.
//!
//! Generated once, here; a plugin's crate has neither the WIT nor wit-bindgen among its own dependencies.
//! Nothing outside `export`, `transaction` and `event` should need this module.

wit_bindgen::generate!({
    path: "../wit",
    world: "projection",
    pub_export_macro: true,
    additional_derives: [PartialEq],
});

//! From a [`Projection`](crate::Projection) to the exports of the WIT world.
//!
//! A world exports plain functions, a projection has state: the one instance lives in this module, made at
//! the first call that needs it. It is never reset here. After anything that rolls back, the host drops the
//! whole component instance, memory and all.

#[cfg(target_family = "wasm")]
pub use wasm::Exported;

#[cfg(not(target_family = "wasm"))]
pub use native::Exported;

/// Makes the crate a component that runs this projection: `export_projection!(MyType);`, once a crate.
///
/// The crate is built as a `cdylib` for `wasm32-unknown-unknown`, where this exports the functions of the
/// WIT world and sends the macros of `log`, and panics, to the host's log. Natively it only
/// checks that the type is a [`Projection`](crate::Projection), so that tests need no second version.
#[macro_export]
macro_rules! export_projection {
    ($projection:ty) => {
        const _: () = {
            type Exported = $crate::__private::Exported<$projection>;
            #[cfg(not(target_family = "wasm"))]
            const _: () = Exported::is_a_projection();
            #[cfg(target_family = "wasm")]
    $crate::bindings::export!(Exported with_types_in $crate::bindings);
        };
    };
}

/// Natively nothing is exported.
#[cfg(not(target_family = "wasm"))]
mod native {
    use std::marker::PhantomData;

    use crate::Projection;

    /// Stands where a component would export `P`.
    pub struct Exported<P>(PhantomData<P>);

    impl<P: Projection> Exported<P> {
        /// Compiles for a projection only.
        pub const fn is_a_projection() {}
    }
}

/// The exports themselves.
#[cfg(target_family = "wasm")]
mod wasm {
    use std::{cell::RefCell, marker::PhantomData};

    use crate::{
        Event, Failure, Projection, Transaction,
        bindings::{self, Guest},
        logging,
    };

    thread_local! {
        /// The instance, once a call needed it.
        static INSTANCE: RefCell<Option<Box<dyn Instance>>> = const { RefCell::new(None) };
    }

    /// What the calls need of a projection, without its type: statics cannot be generic.
    trait Instance {
        /// See [`Projection::migrate`].
        fn migrate(&mut self, tx: &Transaction<'_>, from_version: u32) -> Result<(), Failure>;
        /// See [`Projection::handle`].
        fn handle(&mut self, tx: &Transaction<'_>, event: &Event) -> Result<(), Failure>;
        /// See [`Projection::flush`].
        fn flush(&mut self, tx: &Transaction<'_>) -> Result<(), Failure>;
    }

    impl<P: Projection> Instance for P {
        fn migrate(&mut self, tx: &Transaction<'_>, from_version: u32) -> Result<(), Failure> {
            Projection::migrate(self, tx, from_version)
        }

        fn handle(&mut self, tx: &Transaction<'_>, event: &Event) -> Result<(), Failure> {
            Projection::handle(self, tx, event)
        }

        fn flush(&mut self, tx: &Transaction<'_>) -> Result<(), Failure> {
            Projection::flush(self, tx)
        }
    }

    /// A component's exports, carried out by `P`.
    pub struct Exported<P>(PhantomData<P>);

    impl<P: Projection> Exported<P> {
        /// Calls the instance, made now if this is the first call.
        fn with(call: impl FnOnce(&mut dyn Instance) -> Result<(), Failure>) -> Result<(), bindings::Failure> {
            INSTANCE
                .with_borrow_mut(|slot| {
                    let instance = match slot {
                        Some(instance) => instance,
                        None => {
                            logging::install();
                            let mut projection = P::default();
                            projection.configure()?;
                            slot.insert(Box::new(projection))
                        }
                    };
                    call(instance.as_mut())
                })
                .map_err(Failure::into)
        }
    }

    impl<P: Projection> Guest for Exported<P> {
        fn describe() -> bindings::Descriptor {
            logging::install();
            // There is no error to return here, and yet this is the moment to find a setting that is wrong:
            // later it would be the failure of one event after the other. So: a line in the log, and a trap.
            if let Err(failure) = P::default().configure() {
                log::error!("{failure}");
                std::process::abort();
            }
            let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            bindings::Descriptor {
                name: P::name().to_owned(),
                version: P::version(),
                event_types: owned(P::event_types()),
                aggregate_types: owned(P::aggregate_types()),
                bounded_contexts: owned(P::bounded_contexts()),
            }
        }

        fn migrate(tx: &bindings::Transaction, from_version: u32) -> Result<(), bindings::Failure> {
            Self::with(|projection| projection.migrate(&Transaction::new(tx), from_version))
        }

        fn handle(tx: &bindings::Transaction, event: bindings::Event) -> Result<(), bindings::Failure> {
            Self::with(|projection| projection.handle(&Transaction::new(tx), &Event::new(event)))
        }

        fn flush(tx: &bindings::Transaction) -> Result<(), bindings::Failure> {
            Self::with(|projection| projection.flush(&Transaction::new(tx)))
        }
    }
}

//! Values of any type that travel with a job, one of each type.

use std::{
    any::{Any, TypeId, type_name},
    collections::HashMap,
    fmt,
    sync::Arc,
};

/// What layers say to the layers and handlers behind them: values of any types, one of each. Clones share the values.
///
/// ```
/// use tidegate_worker::Extensions;
///
/// let mut extensions = Extensions::default();
/// assert_eq!(extensions.insert(7_u32), None);
/// assert_eq!(extensions.insert(8_u32).as_deref(), Some(&7));
/// assert_eq!((extensions.get::<u32>(), extensions.get::<String>()), (Some(&8), None));
/// ```
#[derive(Clone, Default)]
pub struct Extensions(HashMap<TypeId, (&'static str, Arc<dyn Any + Send + Sync>)>);

impl Extensions {
    /// Adds a value. Returns the value of its type that was there before.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) -> Option<Arc<T>> {
        let (_, old) = self.0.insert(TypeId::of::<T>(), (type_name::<T>(), Arc::new(value)))?;
        old.downcast().ok()
    }

    /// The value of this type.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.1.downcast_ref()
    }

    /// Removes the value of this type and returns it.
    pub fn remove<T: Send + Sync + 'static>(&mut self) -> Option<Arc<T>> {
        self.0.remove(&TypeId::of::<T>())?.1.downcast().ok()
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.values().map(|(name, _)| name)).finish()
    }
}

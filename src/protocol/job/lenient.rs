//! Tolerant reading of JSON: what is missing, null or an empty list is the same, unknown keys are
//! skipped, of a key that comes twice the last one counts.
//!
//! serde's derive knows each of these as an option of each field; here they are how everything is
//! read, so that none can be forgotten.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor},
};
use serde_json::Value;

use crate::secret::Secret;

/// What a list has room for at first, and if that is not enough.
const SHORT_LIST: usize = 4;
const LONG_LIST: usize = 64;

/// A value that can be read leniently.
pub(super) trait Lenient: Sized {
    /// What stands for a value that is missing or null.
    fn absent() -> Self;

    /// Reads one value; `None` if it is null.
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error>;

    /// The list element that a bare text stands for where a list is expected.
    fn from_text(_: &str) -> Option<Self> {
        None
    }

    /// Whether it is a text without any character, which is no text where one is optional.
    fn is_blank(&self) -> bool {
        false
    }
}

/// A value with named fields.
pub(super) trait Object: Lenient {
    /// Reads the value of `key` into its field, or skips it.
    fn set<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

/// Reads one value from within another.
pub(super) struct Seed<T>(PhantomData<T>);

impl<T> Seed<T> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<'de, T: Lenient> DeserializeSeed<'de> for Seed<T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        T::read(deserializer)
    }
}

/// Defines structs that are read leniently. A field may be followed by `as "key"` (its name on the
/// wire, where that is another), `=> Type` (read as that type and converted) and `= value` (what
/// stands for a missing one).
macro_rules! objects {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $(
                $(#[$field_meta:meta])*
                pub $field:ident: $type:ty
                $(as $key:literal)? $(=> $via:ty)? $(= $default:expr)?,
            )*
        }
    )*) => { $(
        $(#[$meta])*
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
        }

        impl $crate::protocol::job::lenient::Lenient for $name {
            fn absent() -> Self {
                Self { $( $field: objects!(@absent $type $(, $default)?), )* }
            }

            fn read<'de, D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Option<Self>, D::Error> {
                $crate::protocol::job::lenient::read_object(deserializer)
            }
        }

        impl $crate::protocol::job::lenient::Object for $name {
            fn set<'de, A: serde::de::MapAccess<'de>>(
                &mut self,
                key: &str,
                map: &mut A,
            ) -> Result<(), A::Error> {
                match key {
                    $(
                        objects!(@key $field $(, $key)?) => {
                            self.$field = objects!(@read map, $type $(, $via)?)
                                .unwrap_or_else(|| objects!(@absent $type $(, $default)?));
                        }
                    )*
                    _ => {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    }
                }
                Ok(())
            }
        }
    )* };
    (@absent $type:ty) => { <$type as $crate::protocol::job::lenient::Lenient>::absent() };
    (@absent $type:ty, $default:expr) => { $default };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident, $key:literal) => { $key };
    (@read $map:ident, $type:ty) => {
        $map.next_value_seed($crate::protocol::job::lenient::Seed::<$type>::new())?
    };
    (@read $map:ident, $type:ty, $via:ty) => {
        $map.next_value_seed($crate::protocol::job::lenient::Seed::<$via>::new())?
            .map(<$type>::from)
    };
}

/// Makes word lists readable: a missing or empty word is the one behind the name.
macro_rules! lenient_words {
    ($($name:ident: $absent:ident,)*) => { $(
        impl $crate::protocol::job::lenient::Lenient for $name {
            fn absent() -> Self {
                Self::$absent
            }

            fn read<'de, D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Option<Self>, D::Error> {
                $crate::protocol::job::lenient::read_text(
                    deserializer,
                    |word| (!word.is_empty()).then(|| Self::from(word)),
                )
            }

            fn from_text(word: &str) -> Option<Self> {
                Some(Self::from(word))
            }
        }
    )* };
}

pub(super) fn read_object<'de, T: Object, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_any(ObjectVisitor(PhantomData))
}

/// Reads a text and makes something of it.
pub(super) fn read_text<'de, T, D: Deserializer<'de>>(
    deserializer: D,
    make: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, D::Error> {
    let text = deserializer.deserialize_any(TextVisitor)?;
    Ok(text.and_then(|text| make(&text)))
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Object> Visitor<'de> for ObjectVisitor<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        only_if_empty(seq, &self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = T::absent();
        while let Some(Key(key)) = map.next_key()? {
            object.set(&key, &mut map)?;
        }
        Ok(Some(object))
    }
}

/// An empty list is as good as no object.
fn only_if_empty<'de, T, A: SeqAccess<'de>>(
    mut seq: A,
    expected: &dyn serde::de::Expected,
) -> Result<Option<T>, A::Error> {
    match seq.next_element::<IgnoredAny>()? {
        None => Ok(None),
        Some(_) => Err(A::Error::invalid_type(Unexpected::Seq, expected)),
    }
}

/// A key, borrowed from the input where it is written without escapes.
pub(super) struct Key<'de>(pub(super) Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_any(TextVisitor)?;
        Ok(Key(text.unwrap_or_default()))
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text)))
    }
}

impl Lenient for String {
    fn absent() -> Self {
        Self::new()
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        let text = deserializer.deserialize_any(TextVisitor)?;
        Ok(text.map(Cow::into_owned))
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn is_blank(&self) -> bool {
        self.is_empty()
    }
}

impl Lenient for Arc<str> {
    fn absent() -> Self {
        Self::from("")
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        read_text(deserializer, |text| Some(Self::from(text)))
    }

    fn is_blank(&self) -> bool {
        self.is_empty()
    }
}

impl Lenient for Secret {
    fn absent() -> Self {
        Self::default()
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        read_text(deserializer, |text| Some(Self::from(text)))
    }

    fn is_blank(&self) -> bool {
        self.is_empty()
    }
}

impl Lenient for bool {
    fn absent() -> Self {
        false
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_any(BoolVisitor)
    }
}

struct BoolVisitor;

impl Visitor<'_> for BoolVisitor {
    type Value = Option<bool>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true or false")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(value))
    }
}

impl Lenient for Value {
    fn absent() -> Self {
        Self::Null
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        Self::deserialize(deserializer).map(Some)
    }
}

impl<T: Lenient> Lenient for Option<T> {
    fn absent() -> Self {
        None
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        let value = T::read(deserializer)?;
        Ok(Some(value.filter(|value| !value.is_blank())))
    }
}

/// Elements that are null are skipped.
impl<T: Lenient> Lenient for Vec<T> {
    fn absent() -> Self {
        Self::new()
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

impl<T: Lenient> Lenient for Arc<T> {
    fn absent() -> Self {
        Self::new(T::absent())
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        Ok(T::read(deserializer)?.map(Self::new))
    }
}

impl Lenient for Arc<[String]> {
    fn absent() -> Self {
        Self::from([])
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        Ok(Vec::read(deserializer)?.map(Self::from))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Lenient> Visitor<'de> for ListVisitor<T> {
    type Value = Option<Vec<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        match T::from_text(text) {
            Some(_) if text.is_empty() => Ok(None),
            Some(element) => Ok(Some(vec![element])),
            None => Err(E::invalid_type(Unexpected::Other("text"), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element_seed(Seed::<T>::new())? {
            // A list that is not short is mostly long, and need not grow step by step.
            if list.len() == SHORT_LIST {
                list.reserve(LONG_LIST - SHORT_LIST);
            }
            list.extend(element);
        }
        if list.len() > SHORT_LIST {
            list.shrink_to_fit();
        }
        Ok(Some(list))
    }
}

/// Entries that are null are skipped.
impl<T: Lenient> Lenient for BTreeMap<String, T> {
    fn absent() -> Self {
        Self::new()
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_any(TableVisitor(PhantomData))
    }
}

struct TableVisitor<T>(PhantomData<T>);

impl<'de, T: Lenient> Visitor<'de> for TableVisitor<T> {
    type Value = Option<BTreeMap<String, T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        only_if_empty(seq, &self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut table = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if let Some(value) = map.next_value_seed(Seed::<T>::new())? {
                table.insert(key, value);
            }
        }
        Ok(Some(table))
    }
}

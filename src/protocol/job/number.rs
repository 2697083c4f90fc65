//! Tolerant reading of numbers: as numbers or as text, and of texts that some write as numbers.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

use super::lenient::Lenient;
use crate::ids::JobId;

/// A number, written as one or as text.
enum Number {
    Int(i128),
    Float(f64),
}

struct NumberVisitor<T> {
    expected: &'static str,
    convert: fn(Number) -> Option<T>,
}

impl<T> NumberVisitor<T> {
    fn convert<E: Error>(&self, number: Number) -> Result<Option<T>, E> {
        match (self.convert)(number) {
            Some(value) => Ok(Some(value)),
            None => Err(E::invalid_value(Unexpected::Other("number"), self)),
        }
    }
}

impl<'de, T> Visitor<'de> for NumberVisitor<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        self.convert(Number::Int(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        self.convert(Number::Int(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        self.convert(Number::Float(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if let Ok(int) = text.parse() {
            return self.convert(Number::Int(int));
        }
        match text.parse() {
            Ok(float) if f64::is_finite(float) => self.convert(Number::Float(float)),
            _ => Err(E::invalid_value(Unexpected::Other("text"), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        match precise_number(map)? {
            Some(number) => self.visit_str(&number.to_string()),
            None => Err(A::Error::invalid_type(Unexpected::Map, &self)),
        }
    }
}

/// The number that a map stands for. There is one if some other crate in the program switches on
/// serde_json's `arbitrary_precision`: then all numbers come like this.
fn precise_number<'de, A: MapAccess<'de>>(map: A) -> Result<Option<serde_json::Number>, A::Error> {
    Ok(match Value::deserialize(MapAccessDeserializer::new(map))? {
        Value::Number(number) => Some(number),
        _ => None,
    })
}

impl Lenient for u64 {
    fn absent() -> Self {
        0
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_any(NumberVisitor {
            expected: "a whole number from 0 on",
            convert: |number| match number {
                Number::Int(int) => Self::try_from(int).ok(),
                // Up to here every whole number is itself as a float.
                Number::Float(float) => {
                    let is_exact = float.fract() == 0.0 && (0.0..9e15).contains(&float);
                    is_exact.then_some(float as Self)
                }
            },
        })
    }
}

impl Lenient for JobId {
    fn absent() -> Self {
        Self(0)
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        Ok(u64::read(deserializer)?.map(Self))
    }
}

/// Fractions are cut off and what does not fit is the nearest that does: these are counts and times.
impl Lenient for i64 {
    fn absent() -> Self {
        0
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_any(NumberVisitor {
            expected: "a number",
            convert: |number| {
                Some(match number {
                    Number::Int(int) if int > 0 => Self::try_from(int).unwrap_or(Self::MAX),
                    Number::Int(int) => Self::try_from(int).unwrap_or(Self::MIN),
                    Number::Float(float) => float as Self,
                })
            },
        })
    }
}

impl Lenient for f64 {
    fn absent() -> Self {
        0.0
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_any(NumberVisitor {
            expected: "a number",
            convert: |number| {
                Some(match number {
                    Number::Int(int) => int as Self,
                    Number::Float(float) => float,
                })
            },
        })
    }
}

/// A text that some write as a number; empty is absent.
pub(super) struct TextOrNumber(String);

impl From<TextOrNumber> for Option<String> {
    fn from(TextOrNumber(text): TextOrNumber) -> Self {
        (!text.is_empty()).then_some(text)
    }
}

impl Lenient for TextOrNumber {
    fn absent() -> Self {
        Self(String::new())
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_any(TextOrNumberVisitor)
    }
}

struct TextOrNumberVisitor;

impl<'de> Visitor<'de> for TextOrNumberVisitor {
    type Value = Option<TextOrNumber>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a number")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(TextOrNumber(value.to_string())))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(TextOrNumber(value.to_string())))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(TextOrNumber(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        match precise_number(map)? {
            Some(number) => self.visit_str(&number.to_string()),
            None => Err(A::Error::invalid_type(Unexpected::Map, &self)),
        }
    }
}

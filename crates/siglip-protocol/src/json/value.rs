//! Lazy access to a validated text.

use std::borrow::Cow;

use super::text::unescape;

/// A value in a [checked](super::parse) text.
///
/// Nothing is read until it is asked for, and asking twice reads twice. On a text that was not checked the answers
/// are unspecified, but nothing panics and nothing loops.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    text: &'a [u8],
    at: usize,
}

/// What sort of value it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the six kinds of JSON values")]
pub enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool,
    Null,
}

/// A value was not of the type that was asked for. The words are Triton's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the words are right there")]
pub enum AccessError {
    #[error("attempt to access JSON non-array as array")]
    NotArray,
    #[error("attempt to access JSON non-string as string")]
    NotString,
    #[error("attempt to access JSON non-boolean as boolean")]
    NotBool,
    #[error("attempt to access JSON non-signed-integer as signed-integer")]
    NotSigned,
    #[error("attempt to access JSON non-unsigned-integer as unsigned-integer")]
    NotUnsigned,
    #[error("attempt to access JSON non-number as double")]
    NotNumber,
    #[error("attempt to get members for non-object")]
    NotObject,
    #[error("attempt to access non-existing object member '{0}'")]
    Missing(&'static str),
}

/// A member of an object.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    name: &'a [u8],
    /// Its value.
    pub value: Value<'a>,
}

impl<'a> Member<'a> {
    /// Its name, out of its escapes.
    pub fn name(&self) -> Cow<'a, [u8]> {
        unescape(self.name)
    }
}

/// An element of an array.
pub type Element<'a> = Value<'a>;

impl<'a> Value<'a> {
    /// The value of a text that begins with it, but for white space, at `start`.
    pub(super) fn root(text: &'a [u8], start: usize) -> Self {
        Value { text, at: skip_space(text, start) }
    }

    /// What sort of value it is.
    pub fn kind(&self) -> Kind {
        match self.first() {
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b'"' => Kind::String,
            b't' | b'f' => Kind::Bool,
            b'n' => Kind::Null,
            _ => Kind::Number,
        }
    }

    /// The members of an object, in order; none for any other value.
    pub fn members(&self) -> impl Iterator<Item = Member<'a>> + use<'a> {
        let text = self.text;
        let mut at = self.inside(Kind::Object);
        std::iter::from_fn(move || {
            let name_at = next_item(text, at?)?;
            let name = Value { text, at: name_at }.quoted()?;
            // After the name: its closing quote, white space, the colon.
            let colon = skip_space(text, name_at + name.len() + 2);
            let value = Value { text, at: skip_space(text, colon + 1) };
            at = value.end();
            Some(Member { name, value })
        })
    }

    /// The elements of an array, in order; none for any other value.
    pub fn elements(&self) -> impl Iterator<Item = Element<'a>> + use<'a> {
        let text = self.text;
        let mut at = self.inside(Kind::Array);
        std::iter::from_fn(move || {
            let value = Value { text, at: next_item(text, at?)? };
            at = value.end();
            Some(value)
        })
    }

    /// The first member of that name, if this is an object that has one.
    pub fn get(&self, name: &str) -> Option<Value<'a>> {
        self.members().find(|member| *member.name() == *name.as_bytes()).map(|member| member.value)
    }

    /// The member of that name.
    ///
    /// # Errors
    ///
    /// [`AccessError::Missing`] if this is no object or has no such member.
    pub fn member(&self, name: &'static str) -> Result<Value<'a>, AccessError> {
        self.get(name).ok_or(AccessError::Missing(name))
    }

    /// The value itself, if it is an array.
    ///
    /// # Errors
    ///
    /// [`AccessError::NotArray`].
    pub fn array(&self) -> Result<Value<'a>, AccessError> {
        if self.kind() == Kind::Array { Ok(*self) } else { Err(AccessError::NotArray) }
    }

    /// The bytes of a string; they need not be UTF-8.
    ///
    /// # Errors
    ///
    /// [`AccessError::NotString`].
    pub fn string(&self) -> Result<Cow<'a, [u8]>, AccessError> {
        self.quoted().map(unescape).ok_or(AccessError::NotString)
    }

    /// A boolean.
    ///
    /// # Errors
    ///
    /// [`AccessError::NotBool`].
    pub fn bool(&self) -> Result<bool, AccessError> {
        match self.first() {
            b't' => Ok(true),
            b'f' => Ok(false),
            _ => Err(AccessError::NotBool),
        }
    }

    /// An integer that was written as one (no fraction, no exponent) and fits.
    ///
    /// # Errors
    ///
    /// [`AccessError::NotSigned`].
    pub fn signed(&self) -> Result<i64, AccessError> {
        parse_signed(self.number_text()).ok_or(AccessError::NotSigned)
    }

    /// An integer that was written as one, is not negative and fits.
    ///
    /// # Errors
    ///
    /// [`AccessError::NotUnsigned`].
    pub fn unsigned(&self) -> Result<u64, AccessError> {
        let text = self.number_text();
        match text {
            b"-0" => Ok(0),
            _ => parse_magnitude(text).ok_or(AccessError::NotUnsigned),
        }
    }

    /// Any number.
    ///
    /// # Errors
    ///
    /// [`AccessError::NotNumber`].
    pub fn double(&self) -> Result<f64, AccessError> {
        if self.kind() == Kind::Number { parse_double(self.number_text()) } else { None }
            .ok_or(AccessError::NotNumber)
    }

    /// What is written between the quotes, if it is a string.
    pub(super) fn quoted(&self) -> Option<&'a [u8]> {
        let inside = self.text.get(self.at..)?.strip_prefix(b"\"")?;
        let mut end = 0;
        loop {
            end += memchr::memchr2(b'"', b'\\', inside.get(end..)?)?;
            match inside.get(end) {
                Some(b'\\') => end += 2,
                _ => return inside.get(..end),
            }
        }
    }

    /// What follows the value's first byte, for readers that go over an array themselves.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn first(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or_default()
    }

    fn number_text(&self) -> &'a [u8] {
        let rest = self.rest();
        rest.get(..number_length(rest)).unwrap_or_default()
    }

    fn inside(&self, kind: Kind) -> Option<usize> {
        (self.kind() == kind).then_some(self.at + 1)
    }

    /// Where the value ends.
    fn end(&self) -> Option<usize> {
        match self.kind() {
            Kind::String => self.quoted().map(|quoted| self.at + quoted.len() + 2),
            Kind::Object | Kind::Array => {
                let mut depth = 0_usize;
                let mut at = self.at;
                loop {
                    match *self.text.get(at)? {
                        b'"' => {
                            at += Value { text: self.text, at }.quoted()?.len() + 2;
                            continue;
                        }
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    at += 1;
                    if depth == 0 {
                        return Some(at);
                    }
                }
            }
            Kind::Number | Kind::Bool | Kind::Null => {
                let word = self.rest().iter().take_while(|byte| !b",]} \t\r\n".contains(byte)).count();
                Some(self.at + word)
            }
        }
    }
}

/// From the end of an item, or the start of a container, to the next item; `None` at the container's end.
fn next_item(text: &[u8], at: usize) -> Option<usize> {
    let mut at = skip_space(text, at);
    if text.get(at) == Some(&b',') {
        at = skip_space(text, at + 1);
    }
    (!matches!(text.get(at)?, b']' | b'}')).then_some(at)
}

fn skip_space(text: &[u8], from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')).count()
}

/// The length of the number at the start of `text`.
pub(super) fn number_length(text: &[u8]) -> usize {
    text.iter().take_while(|byte| !matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t')).count()
}

pub(super) fn parse_signed(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        None => parse_magnitude(text)?.try_into().ok(),
        Some(digits) => 0_i64.checked_sub_unsigned(parse_magnitude(digits)?),
    }
}

fn parse_magnitude(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

pub(super) fn parse_double(text: &[u8]) -> Option<f64> {
    // `str::parse` knows "NaN", "Inf" and "Infinity" too.
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_over_everything() {
        let text =
            br#" {"a" : [1, -2 , 18446744073709551615,1.5,true,null,"x\"]}"] , "b":{"c":{}}, "a":2 } "#;
        let root = super::super::parse(text).unwrap();
        let names: Vec<_> = root.members().map(|member| member.name().into_owned()).collect();
        assert_eq!(names, [b"a", b"b", b"a"]);
        let a: Vec<_> = root.get("a").unwrap().elements().collect();
        assert_eq!(a.len(), 7);
        assert_eq!(a[0].signed(), Ok(1));
        assert_eq!(a[0].unsigned(), Ok(1));
        assert_eq!(a[1].signed(), Ok(-2));
        assert_eq!(a[1].unsigned(), Err(AccessError::NotUnsigned));
        assert_eq!(a[2].unsigned(), Ok(u64::MAX));
        assert_eq!(a[2].signed(), Err(AccessError::NotSigned));
        assert_eq!(a[3].double(), Ok(1.5));
        assert_eq!(a[3].signed(), Err(AccessError::NotSigned));
        assert_eq!(a[4].bool(), Ok(true));
        assert_eq!(a[4].double(), Err(AccessError::NotNumber));
        assert_eq!(a[5].kind(), Kind::Null);
        assert_eq!(a[6].string().unwrap(), &b"x\"]}"[..]);
        assert_eq!(root.get("b").unwrap().get("c").unwrap().members().count(), 0);
        assert!(root.get("b").unwrap().get("d").is_none());
        assert_eq!(Value::root(b"[]", 0).elements().count(), 0);
        assert_eq!(Value::root(b"3", 0).get("x").map(|_| ()), None);
    }

    #[test]
    fn the_ends_of_the_integers() {
        let signed = |text: &str| Value::root(text.as_bytes(), 0).signed();
        assert_eq!(signed("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(signed("9223372036854775807"), Ok(i64::MAX));
        assert_eq!(signed("9223372036854775808"), Err(AccessError::NotSigned));
        assert_eq!(signed("-9223372036854775809"), Err(AccessError::NotSigned));
        assert_eq!(signed("1e3"), Err(AccessError::NotSigned));
        assert_eq!(signed("NaN"), Err(AccessError::NotSigned));
        assert_eq!(signed("-0"), Ok(0));
        assert_eq!(Value::root(b"-0", 0).unsigned(), Ok(0));
    }

    #[test]
    fn nonsense_is_harmless() {
        for text in [&b""[..], b"{", b"{\"a", b"{\"a\"", b"[", b"[[", b"[1", b"\"\\", b"{,}", b"[,,]", b"]"] {
            let root = Value::root(text, 0);
            let _ = root.members().take(100).count();
            let _ = root.elements().take(100).filter(|value| value.double().is_ok()).count();
            let _ = (root.string(), root.signed(), root.kind());
        }
    }
}

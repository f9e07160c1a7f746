//! The header of each datagram between a client and its UDP association.

use super::{BadRequest, address, put_target};
use crate::{
    Target,
    step::{Missing, Reader},
};

/// Splits a datagram into where it goes, or comes from, and what it carries.
///
/// # Errors
/// [`BadRequest`]; fragments are [`BadRequest::Fragment`].
pub fn parse(bytes: &[u8]) -> Result<(Target, &[u8]), BadRequest> {
    let mut reader = Reader::new(bytes);
    let mut read = || {
        let [reserved @ .., fragment] = reader.array::<3>()?;
        if reserved != [0, 0] {
            return Ok(Err(BadRequest::Reserved));
        }
        if fragment != 0 {
            return Ok(Err(BadRequest::Fragment));
        }
        address(&mut reader).map(|target| target.and_then(|target| target))
    };
    match read() {
        Ok(target) => target.map(|target| (target, reader.rest())),
        Err(Missing(_)) => Err(BadRequest::Short),
    }
}

/// A datagram with its header.
pub fn encode(target: &Target, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 262);
    out.extend_from_slice(&[0, 0, 0]);
    put_target(target, &mut out);
    out.extend_from_slice(payload);
    out
}

//! `[assertion]`: what upstreams are told of who asks, signed.

use std::sync::Arc;

use super::error::Diagnostics;
use super::file::File;
use super::names::{entries, items};
use crate::proxy::assertion::{AssertionSettings, NAMES};

/// As typed; what is wrong with it is told.
pub fn assertion(file: &File, found: &mut Diagnostics) -> Option<AssertionSettings> {
    let Some(typed) = &file.assertion else {
        for (name, upstream) in entries(&file.upstream) {
            if let Some(audience) = &upstream.value.assertion_audience {
                let message = format!("upstream `{}` gets no assertions", name.value);
                let remedy = "add `[assertion]` with its `issuer`, or take this out";
                found.error("missing_key", audience.span, message, remedy);
            }
        }
        return None;
    };
    for (name, upstream) in entries(&file.upstream) {
        let untold = upstream.value.identity_headers.filter(|told| !told.value);
        if let (Some(untold), Some(audience)) = (untold, &upstream.value.assertion_audience) {
            let message = format!("upstream `{}` gets no assertions: it is not told who asks", name.value);
            let places = (audience.span, untold.span);
            found.conflict("contradiction", places, message, "take one of the two out");
        }
    }
    let typed = &typed.value;
    for claim in items(&typed.claims) {
        if NAMES.contains(&claim.value.as_str()) {
            let message = format!("`{}` has a meaning of its own in assertions", claim.value);
            found.error("contradiction", claim.span, message, "take it out: it is told where it is known");
        }
    }
    let claims = items(&typed.claims).iter().map(|claim| Arc::from(claim.value.as_str())).collect();
    Some(AssertionSettings { issuer: typed.issuer.as_ref()?.value.as_str().into(), claims })
}

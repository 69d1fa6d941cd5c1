//! Which `iss` a token can have that is of an issuer under both configurations.

use std::sync::Arc;

use super::Issuers;
use super::acting::Issued;
use super::draft::Draft;
use crate::policy::cells::{Built, Unbuilt};
use crate::policy::claim::ClaimPath;
use crate::policy::pattern::Glob;

impl Issuers<'_> {
    /// All that some text tells apart, those first that need no tenant.
    pub(super) fn issued(&self, globs: &[Glob]) -> Vec<Issued> {
        let mut found: Vec<Issued> = Vec::new();
        for (_, issuer) in self.known() {
            for form in issuer.url.forms() {
                let issued = match form {
                    None => Some(Issued::Unsaid).filter(|_| self.all(|url| url.trust_domain().is_some())),
                    Some((text, None)) => self.issued_by(text),
                    Some((before, Some(after))) => {
                        let form = || Some((Arc::clone(&before), Some(Arc::clone(&after))));
                        let both = self.all(|url| url.forms().any(|other| other == form()));
                        both.then(|| Issued::ByTenant([before.clone(), after.clone()]))
                    }
                };
                found.extend(issued.filter(|issued| !found.contains(issued)));
            }
        }
        found.sort_by_key(|issued| matches!(issued, Issued::ByTenant(_) | Issued::By(_, Some(_))));
        let mut seen: Vec<Vec<bool>> = Vec::new();
        found.retain(|issued| {
            let read: Vec<bool> = globs.iter().map(|glob| is_read(issued, glob)).collect();
            let is_new = !seen.contains(&read);
            seen.extend(is_new.then_some(read));
            is_new
        });
        found
    }

    fn all(&self, is: impl Fn(&super::super::issuer_url::IssuerUrl) -> bool) -> bool {
        self.known().all(|(_, issuer)| is(&issuer.url))
    }

    /// `None` where one of them does not take it, or wants another tenant than the other.
    fn issued_by(&self, iss: Arc<str>) -> Option<Issued> {
        let mut tenant = None;
        for (_, issuer) in self.known() {
            if let Some(wanted) = issuer.url.tenant_of(&iss)? {
                if tenant.is_some_and(|tenant| tenant != wanted) {
                    return None;
                }
                tenant = Some(wanted);
            }
        }
        let tenant = tenant.map(Arc::from);
        Some(Issued::By(iss, tenant))
    }
}

impl Issued {
    pub(super) fn put(&self, draft: &mut Draft<'_>) -> Built {
        let (iss, tid) = (ClaimPath::top_level("iss"), ClaimPath::top_level("tid"));
        match self {
            // with `iss` demanded, it is said
            Issued::Unsaid if draft.is_given(&iss.0) => Err(Unbuilt::Impossible),
            Issued::Unsaid => Ok(()),
            Issued::By(text, tenant) => {
                draft.text(&iss, Some(&Glob::Exact(Arc::clone(text))))?;
                match tenant {
                    Some(tenant) => draft.text(&tid, Some(&Glob::Exact(Arc::clone(tenant)))),
                    None => Ok(()),
                }
            }
            Issued::ByTenant(around) => draft.has_tenant(around),
        }
    }
}

/// Whether a glob can match its `iss`.
fn is_read(issued: &Issued, glob: &Glob) -> bool {
    match issued {
        Issued::Unsaid => false,
        Issued::By(text, _) => glob.matches(text),
        Issued::ByTenant([before, after]) => match glob {
            Glob::Exact(text) => text.starts_with(&**before) && text.ends_with(&**after),
            Glob::Prefix(start) => before.starts_with(&**start) || start.starts_with(&**before),
        },
    }
}

//! Demands that meet in one claim, and the values that fulfil all of them and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::Drafted;
use super::slot::{Form, Numbered, Read, Slot, Time, meet};
use crate::policy::cells::{Built, Fresh, Gap, Unbuilt};
use crate::policy::claim::{ClaimPath, ClaimValue};
use crate::policy::pattern::Glob;

type Place = Vec<Arc<str>>;

/// Claims that are being put together, by their places.
pub struct Draft<'a> {
    slots: BTreeMap<Place, Slot>,
    /// Segments of the path: their literal, if they have one.
    segments: Vec<Option<Arc<str>>>,
    /// What must be one text.
    same: Vec<(Node, Node)>,
    /// What `iss` is made of, around the tenant.
    tenant: Option<[Arc<str>; 2]>,
    /// Where values are compared.
    pub as_claim: &'a BTreeSet<ClaimPath>,
    pub as_same: BTreeSet<Place>,
    pub scopes_max: usize,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Segment(usize),
    Claim(Place),
}

impl<'a> Draft<'a> {
    pub fn new(segments: &[Option<Arc<str>>], as_claim: &'a BTreeSet<ClaimPath>) -> Draft<'a> {
        Draft {
            slots: BTreeMap::new(),
            segments: segments.to_vec(),
            same: Vec::new(),
            tenant: None,
            as_claim,
            as_same: BTreeSet::new(),
            scopes_max: usize::MAX,
        }
    }

    /// Whether anything stands here, or deeper.
    pub fn is_given(&self, path: &[Arc<str>]) -> bool {
        self.slots.keys().any(|place| place.starts_with(path))
    }

    /// One string is read here, if anything is.
    pub fn is_text(&mut self, path: &ClaimPath) {
        if let Some(slot) = self.slots.get_mut(&path.0) {
            slot.form = Form::Text;
        }
    }

    /// Nothing but an object is read here, if anything is.
    pub fn is_object(&mut self, path: &ClaimPath) {
        if let Some(slot) = self.slots.get_mut(&path.0) {
            slot.form = Form::Object;
        }
    }

    pub fn text(&mut self, path: &ClaimPath, glob: Option<&Glob>) -> Built {
        let slot = self.slots.entry(path.0.clone()).or_default();
        slot.form = Form::Text;
        if let Some(glob) = glob {
            slot.text = Some(meet(slot.text.take(), glob.clone())?);
        }
        Ok(())
    }

    /// A time is read here, if anything is. It is no text.
    pub fn is_time(&mut self, path: &ClaimPath, time: Time) -> Built {
        match self.slots.get_mut(&path.0) {
            Some(Slot { form: Form::Text, .. }) => Err(Unbuilt::Impossible),
            Some(slot) if slot.words.is_empty() => {
                slot.form = Form::Time(time);
                Ok(())
            }
            Some(_) => Err(Unbuilt::Impossible),
            None => Ok(()),
        }
    }

    /// Whatever fits it.
    pub fn anything(&mut self, path: &ClaimPath) {
        self.slots.entry(path.0.clone()).or_default();
    }

    pub fn words(&mut self, path: &ClaimPath, words: &[Arc<str>], form: Form) {
        let slot = self.slots.entry(path.0.clone()).or_default();
        slot.read_as(form);
        slot.words.extend(words.iter().cloned());
    }

    /// Strings are read here, if anything is.
    pub fn is_words(&mut self, path: &ClaimPath, form: Form) {
        if let Some(slot) = self.slots.get_mut(&path.0) {
            slot.read_as(form);
        }
    }

    pub fn value(&mut self, path: &ClaimPath, value: &ClaimValue) {
        self.slots.entry(path.0.clone()).or_default().values.push(value.clone());
    }

    /// The segment equals the claim, or a member of it.
    pub fn segment_is(&mut self, segment: usize, path: &ClaimPath) {
        self.anything(path);
        self.same.push((Node::Segment(segment), Node::Claim(path.0.clone())));
    }

    /// Both are there, and one string.
    pub fn are_same(&mut self, [one, other]: &[ClaimPath; 2]) -> Built {
        self.text(one, None)?;
        self.text(other, None)?;
        self.same.push((Node::Claim(one.0.clone()), Node::Claim(other.0.clone())));
        Ok(())
    }

    /// `iss` is these two with `tid` between them.
    pub fn has_tenant(&mut self, around: &[Arc<str>; 2]) -> Built {
        self.text(&ClaimPath::top_level("iss"), None)?;
        self.text(&ClaimPath::top_level("tid"), None)?;
        self.tenant = Some(around.clone());
        Ok(())
    }

    /// The claims and the path, each free thing with a value of its own.
    pub fn filled(mut self, fresh: &Fresh, tenant: &str) -> Built<Drafted> {
        let mut values = Numbered::new(fresh);
        self.slots.values_mut().filter(|slot| slot.is_single()).try_for_each(Slot::gather)?;
        if self.tenant.is_some() {
            self.solve_tenant(fresh.is_free(tenant).then_some(tenant))?;
        }
        let path = self.fill_texts(&mut values)?;
        self.put_tenant()?;
        let places: Vec<Place> = self.slots.keys().cloned().collect();
        let is_around = |at: usize| places.get(at + 1).is_some_and(|next| next.starts_with(&places[at]));
        let mut found: BTreeMap<Place, Value> = BTreeMap::new();
        for (_, place) in places.iter().enumerate().filter(|(at, _)| !is_around(*at)) {
            let slot = self.slots.remove(place).unwrap_or_default();
            found.insert(place.clone(), slot.filled(&mut values, self.read(place))?);
        }
        // what stands deeper first
        let mut claims = Map::new();
        while let Some((place, value)) = found.pop_last() {
            let Some((last, around)) = place.split_last() else { return Err(Unbuilt::Impossible) };
            if around.is_empty() {
                claims.insert(last.to_string(), value);
                continue;
            }
            let outer = self.slots.entry(around.to_vec()).or_default();
            outer.inner.insert(last.to_string(), value);
            // names that are next stand in it too, or around it
            if !found.keys().next_back().is_some_and(|next| next.starts_with(around)) {
                let slot = self.slots.remove(around).unwrap_or_default();
                found.insert(around.to_vec(), slot.filled(&mut values, self.read(around))?);
            }
        }
        Ok(Drafted { claims, path })
    }

    fn read(&self, place: &[Arc<str>]) -> Read {
        Read {
            as_claim: self.as_claim.contains(&ClaimPath(place.to_vec())),
            as_same: self.as_same.contains(place),
            scopes_max: self.scopes_max,
        }
    }

    /// What is demanded of `iss` is demanded of the tenant in it.
    fn solve_tenant(&mut self, usual: Option<&str>) -> Built {
        let Some([before, after]) = self.tenant.clone() else { return Ok(()) };
        let place = |name: &str| vec![Arc::from(name)];
        let iss = self.slots.get(&place("iss")).and_then(|slot| slot.text.clone());
        let Some(tid) = self.slots.get_mut(&place("tid")) else { return Ok(()) };
        match iss {
            Some(Glob::Exact(text)) => {
                let tenant = text.strip_prefix(&*before).and_then(|rest| rest.strip_suffix(&*after));
                let tenant = Glob::Exact(tenant.ok_or(Unbuilt::Impossible)?.into());
                tid.text = Some(meet(tid.text.take(), tenant)?);
            }
            Some(Glob::Prefix(start)) if !before.starts_with(&*start) => match &tid.text {
                _ if !start.starts_with(&*before) => return Err(Unbuilt::Impossible),
                Some(Glob::Exact(tenant)) if format!("{before}{tenant}{after}").starts_with(&*start) => {}
                Some(Glob::Exact(_)) => return Err(Unbuilt::Impossible),
                _ => return Err(Unbuilt::Open(Gap::Tenant)),
            },
            _ => {}
        }
        if tid.text.is_none() {
            tid.text = usual.map(|usual| Glob::Exact(usual.into()));
        }
        // a segment, or another claim, is an `iss` of which only a part is known
        let iss = Node::Claim(place("iss"));
        let tied = self.same.iter().any(|(one, other)| *one == iss || *other == iss);
        if tied { Err(Unbuilt::Open(Gap::Tenant)) } else { Ok(()) }
    }

    fn put_tenant(&mut self) -> Built {
        let Some([before, after]) = &self.tenant else { return Ok(()) };
        let known = self.slots.get(&[Arc::from("tid")][..]).and_then(|slot| slot.known.clone());
        let tenant = known.as_ref().and_then(Value::as_str).unwrap_or_default();
        let text = format!("{before}{tenant}{after}");
        if let Some(slot) = self.slots.get_mut(&[Arc::from("iss")][..]) {
            slot.known = Some(text.into());
        }
        Ok(())
    }

    /// Solves what must be equal, and gives every segment its text.
    fn fill_texts(&mut self, values: &mut Numbered<'_>) -> Built<Vec<Arc<str>>> {
        let is_text = |slots: &BTreeMap<Place, Slot>, node: &Node| match node {
            Node::Segment(_) => true,
            Node::Claim(place) => slots.get(place).is_some_and(Slot::is_single),
        };
        let texts = self.slots.iter().filter(|(_, slot)| slot.is_single());
        let mut nodes: Vec<Node> = texts.map(|(place, _)| Node::Claim(place.clone())).collect();
        nodes.extend((0..self.segments.len()).map(Node::Segment));
        let mut path = vec![Arc::from(""); self.segments.len()];
        while let Some(first) = nodes.pop() {
            let mut group = vec![first];
            while let Some(at) = nodes.iter().position(|node| {
                self.same.iter().any(|(a, b)| {
                    is_text(&self.slots, a)
                        && is_text(&self.slots, b)
                        && ((a == node && group.contains(b)) || (b == node && group.contains(a)))
                })
            }) {
                group.push(nodes.swap_remove(at));
            }
            let text = self.text_of(&group, values)?;
            for node in &group {
                match node {
                    Node::Segment(at) => path[*at] = Arc::clone(&text),
                    Node::Claim(place) => {
                        let Some(slot) = self.slots.get_mut(place) else { continue };
                        slot.known = Some(match slot.form {
                            Form::Time(_) => text.parse::<i64>().map_or(Value::Null, Value::from),
                            _ => Value::String(text.to_string()),
                        });
                    }
                }
            }
        }
        for (a, b) in &self.same {
            if let (Node::Segment(segment), Node::Claim(place)) = (a, b)
                && let Some(slot) = self.slots.get_mut(place)
                && !slot.is_single()
            {
                slot.matched = true;
                if !slot.words.contains(&path[*segment]) {
                    slot.words.push(Arc::clone(&path[*segment]));
                }
            }
        }
        Ok(path)
    }

    fn text_of(&self, group: &[Node], values: &mut Numbered<'_>) -> Built<Arc<str>> {
        let (mut glob, mut in_path, mut times) = (None, false, Vec::new());
        for node in group {
            let wanted = match node {
                Node::Segment(at) => {
                    in_path = true;
                    self.segments[*at].as_ref().map(|literal| Glob::Exact(Arc::clone(literal)))
                }
                Node::Claim(place) => self.slots.get(place).and_then(|slot| {
                    times.extend(match slot.form {
                        Form::Time(time) => Some(time),
                        _ => None,
                    });
                    slot.text.clone()
                }),
            };
            if let Some(wanted) = wanted {
                glob = Some(meet(glob, wanted)?);
            }
        }
        let all = times.iter().copied().reduce(|one, other| Time {
            from: one.from.max(other.from),
            until: one.until.min(other.until),
            usual: one.usual,
        });
        let text = match all {
            Some(time) => values.time(glob.as_ref(), time)?.to_string().into(),
            None => values.text(glob.as_ref())?,
        };
        // no segment is such a text, and none is that begins as one that has a `/` in its start
        let speakable =
            !text.is_empty() && !text.contains(['/', '\\']) && !text.contains(|c: char| c.is_ascii_control());
        let is_segment = speakable && !matches!(text.split(';').next(), Some("." | ".."));
        if !in_path || is_segment { Ok(text) } else { Err(Unbuilt::Impossible) }
    }
}

//! The picture of who reaches what: services on the left, whom they carry requests for in the middle, routes on
//! the right. A box in the middle is one group of the table, so that each path from left to right is a right
//! that somebody has, and no path is another.

use std::collections::BTreeMap;

use super::page::Page;
use super::view::{Group, Reach, View};
use crate::access::{Bearer, Carrier};

const WIDTH: usize = 1180;
/// Left edge and width of the three columns of boxes.
const LEFT: (usize, usize) = (10, 230);
const MIDDLE: (usize, usize) = (430, 280);
const RIGHT: (usize, usize) = (970, 200);
const TOP: usize = 44;
const BOX_HEIGHT: usize = 46;
const GAP: usize = 16;
/// Longer ones are cut short; the box has the whole as its title.
const CHARS_MAX: usize = 38;

/// One line between two boxes.
struct Edge {
    from: (usize, usize),
    to: (usize, usize),
    label: String,
    width: usize,
    agents: bool,
    always: bool,
}

pub fn draw(view: &View<'_>, page: &mut Page) {
    let mut carriers: Vec<Carrier> =
        view.groups.iter().flat_map(|group| group.carriers.iter().copied()).collect();
    carriers.sort_unstable();
    carriers.dedup();
    let reached = |group: &Group<'_>| {
        let open = group.cells.iter().zip(&view.matrix.columns).filter(|(cell, _)| !cell.grants.is_empty());
        let mut routes: BTreeMap<_, (Vec<String>, bool)> = BTreeMap::new();
        for (cell, column) in open {
            let (methods, always) = routes.entry(column.route).or_insert((Vec::new(), true));
            methods.extend(View::methods(column));
            *always &= Reach::of(cell) == Reach::Always;
        }
        routes
    };
    let mut routes: Vec<_> = view.groups.iter().flat_map(|group| reached(group).into_keys()).collect();
    routes.sort_unstable();
    routes.dedup();
    let rows = carriers.len().max(view.groups.len()).max(routes.len());
    let height = TOP + rows * (BOX_HEIGHT + GAP);
    let middle_of = |at: usize, of: usize| {
        let spare = (rows - of) * (BOX_HEIGHT + GAP) / 2;
        TOP + spare + at * (BOX_HEIGHT + GAP) + BOX_HEIGHT / 2
    };
    let mut edges = Vec::new();
    for (at, group) in view.groups.iter().enumerate() {
        let here = middle_of(at, view.groups.len());
        for carrier in &group.carriers {
            let from = carriers.iter().position(|other| other == carrier).unwrap_or_default();
            edges.push(Edge {
                from: (LEFT.0 + LEFT.1, middle_of(from, carriers.len())),
                to: (MIDDLE.0, here),
                label: String::new(),
                width: 2,
                agents: group.has_agents(),
                always: true,
            });
        }
        for (route, (methods, always)) in reached(group) {
            let to = routes.iter().position(|other| *other == route).unwrap_or_default();
            edges.push(Edge {
                from: (MIDDLE.0 + MIDDLE.1, here),
                to: (RIGHT.0, middle_of(to, routes.len())),
                width: (1 + methods.len()).min(7),
                label: methods.join(" "),
                agents: group.has_agents(),
                always,
            });
        }
    }
    page.raw("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ").text(WIDTH).raw(" ").text(height);
    page.raw("\" role=\"img\" aria-labelledby=\"picture-title picture-what\">\n");
    page.raw("<title id=\"picture-title\">Who reaches what</title>\n<desc id=\"picture-what\">");
    page.raw("Services on the left carry requests for the callers in the middle, who reach the routes on the right. ");
    page.raw("The table below says the same in words.</desc>\n");
    for (text, at) in [("Service", LEFT), ("For whom", MIDDLE), ("Route", RIGHT)] {
        page.raw("<text class=\"head\" x=\"").text(at.0).raw("\" y=\"24\">").text(text).raw("</text>\n");
    }
    edges.iter().for_each(|edge| draw_edge(edge, page));
    for (at, carrier) in carriers.iter().enumerate() {
        let none = *carrier == Carrier::Nobody;
        let name = carrier.name(view.parts());
        let class = if none { "box none" } else { "box" };
        draw_box(page, class, LEFT, middle_of(at, carriers.len()), name, None);
    }
    for (at, group) in view.groups.iter().enumerate() {
        let class = if group.has_agents() {
            "box agent"
        } else if group.bearers.contains(&Bearer::NoToken) {
            "box none"
        } else {
            "box"
        };
        let (roles, actors) = (view.bearers(group).join(", "), group.actors().join(", "));
        let actors = if actors == "-" { String::new() } else { actors };
        draw_box(page, class, MIDDLE, middle_of(at, view.groups.len()), &roles, Some(&actors));
    }
    for (at, route) in routes.iter().enumerate() {
        let name = view.policy.route(*route).name.as_str();
        draw_box(page, "box route", RIGHT, middle_of(at, routes.len()), name, None);
    }
    page.raw("</svg>\n");
}

fn draw_edge(edge: &Edge, page: &mut Page) {
    let (from, to) = (edge.from, edge.to);
    let bend = (to.0 - from.0) / 2;
    page.raw(match (edge.agents, edge.always) {
        (true, true) => "<path class=\"edge agent\" d=\"M",
        (true, false) => "<path class=\"edge agent some\" d=\"M",
        (false, true) => "<path class=\"edge\" d=\"M",
        (false, false) => "<path class=\"edge some\" d=\"M",
    });
    page.text(from.0).raw(" ").text(from.1).raw(" C").text(from.0 + bend).raw(" ").text(from.1).raw(" ");
    page.text(to.0 - bend).raw(" ").text(to.1).raw(" ").text(to.0).raw(" ").text(to.1);
    page.raw("\" stroke-width=\"").text(edge.width).raw("\"/>\n");
    if !edge.label.is_empty() {
        page.raw("<text class=\"label\" x=\"").text(from.0 + 12).raw("\" y=\"").text(from.1 - 7).raw("\">");
        // beside the box that it leaves, where no two lines of one box can hide each other's
        page.text(short(&edge.label, CHARS_MAX)).raw("</text>\n");
    }
}

fn draw_box(
    page: &mut Page,
    class: &'static str,
    (x, width): (usize, usize),
    middle: usize,
    name: &str,
    below: Option<&str>,
) {
    let below = below.filter(|below| !below.is_empty());
    page.raw("<g class=\"").raw(class).raw("\"><title>").text(name);
    if let Some(below) = below {
        page.raw(" · ").text(below);
    }
    page.raw("</title><rect x=\"").text(x).raw("\" y=\"").text(middle - BOX_HEIGHT / 2);
    page.raw("\" width=\"").text(width).raw("\" height=\"").text(BOX_HEIGHT).raw("\" rx=\"8\"/>");
    let first = if below.is_some() { middle - 4 } else { middle + 5 };
    page.raw("<text x=\"").text(x + 14).raw("\" y=\"").text(first).raw("\">");
    page.text(short(name, CHARS_MAX * width / MIDDLE.1)).raw("</text>");
    if let Some(below) = below {
        page.raw("<text class=\"below\" x=\"").text(x + 14).raw("\" y=\"").text(middle + 14).raw("\">");
        page.text(short(below, CHARS_MAX)).raw("</text>");
    }
    page.raw("</g>\n");
}

fn short(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some(_) => text.chars().take(chars_max - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

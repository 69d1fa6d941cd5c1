//! The picture of who reaches what: services on the left, whom they carry requests for in the middle, routes on
//! the right. A box in the middle is one group of the table, so that each path from left to right is a right
//! that somebody has, and no path is another.

use super::page::Page;
use super::view::{Group, Part, View};
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

/// What stands in a box.
#[derive(Clone, Copy)]
enum Look {
    Somebody,
    Agent,
    /// An agent among others.
    Mixed,
    /// Without a certificate, or without a token.
    Nobody,
    Route,
}

impl Look {
    fn group(self) -> &'static str {
        match self {
            Look::Somebody => "<g class=\"box\" fill=\"#eef3f9\" stroke=\"#1f5fa8\">",
            Look::Agent => {
                "<g class=\"box agent\" fill=\"#fdf3ea\" stroke=\"#a8480b\" stroke-width=\"2\" stroke-dasharray=\"7 3\">"
            }
            Look::Mixed => {
                "<g class=\"box mixed\" fill=\"#eef3f9\" stroke=\"#a8480b\" stroke-width=\"2\" stroke-dasharray=\"7 3\">"
            }
            Look::Nobody => {
                "<g class=\"box none\" fill=\"#fff\" stroke=\"#5a6675\" stroke-dasharray=\"4 3\">"
            }
            Look::Route => "<g class=\"box route\" fill=\"#f5f7fa\" stroke=\"#5a6675\">",
        }
    }
}

/// One line between two boxes.
struct Edge {
    from: (usize, usize),
    to: (usize, usize),
    label: String,
    width: usize,
    agents: bool,
}

pub fn draw(view: &View<'_>, page: &mut Page) {
    let groups: Vec<(usize, &Part<'_>, &Group<'_>)> = view
        .parts
        .iter()
        .enumerate()
        .flat_map(|(at, part)| part.groups.iter().map(move |group| (at, part, group)))
        .collect();
    let mut carriers: Vec<Carrier> =
        groups.iter().flat_map(|(_, _, group)| group.carriers.iter().copied()).collect();
    carriers.sort_unstable();
    carriers.dedup();
    let rows = carriers.len().max(groups.len()).max(1);
    let height = TOP + rows * (BOX_HEIGHT + GAP);
    // the boxes of a column are spread over the whole height
    let middle_of = |at: usize, of: usize| TOP + (2 * at + 1) * rows * (BOX_HEIGHT + GAP) / (2 * of);
    let mut edges = Vec::new();
    for (at, (to, part, group)) in groups.iter().enumerate() {
        let here = middle_of(at, groups.len());
        for carrier in &group.carriers {
            let from = carriers.iter().position(|other| other == carrier).unwrap_or_default();
            edges.push(Edge {
                from: (LEFT.0 + LEFT.1, middle_of(from, carriers.len())),
                to: (MIDDLE.0, here),
                label: String::new(),
                width: 2,
                agents: group.has_agents(),
            });
        }
        let open = group.cells.iter().zip(part.columns).filter(|(cell, _)| !cell.grants.is_empty());
        let methods: Vec<String> = open.flat_map(|(_, column)| View::methods(column)).collect();
        edges.push(Edge {
            from: (MIDDLE.0 + MIDDLE.1, here),
            to: (RIGHT.0, middle_of(*to, view.parts.len())),
            width: (1 + methods.len()).min(7),
            label: methods.join(" "),
            agents: group.has_agents(),
        });
    }
    page.raw("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ").text(WIDTH).raw(" ").text(height);
    page.raw("\" font-family=\"system-ui, sans-serif\" font-size=\"14\" role=\"img\" aria-labelledby=\"picture-title picture-what\">\n");
    page.raw("<title id=\"picture-title\">Who reaches what</title>\n<desc id=\"picture-what\">");
    page.raw("Services on the left carry requests for the callers in the middle, who reach the routes on the right. ");
    page.raw("The table below says the same in words.</desc>\n");
    for (text, at) in [("Service", LEFT), ("For whom", MIDDLE), ("Route", RIGHT)] {
        page.raw("<text class=\"head\" fill=\"#5a6675\" font-size=\"13\" x=\"")
            .text(at.0)
            .raw("\" y=\"24\">")
            .text(text)
            .raw("</text>\n");
    }
    edges.iter().for_each(|edge| draw_edge(edge, page));
    for (at, carrier) in carriers.iter().enumerate() {
        let none = *carrier == Carrier::Nobody;
        let name = carrier.name(view.policy.parts());
        draw_box(
            page,
            if none { Look::Nobody } else { Look::Somebody },
            LEFT,
            middle_of(at, carriers.len()),
            name,
            None,
        );
    }
    for (at, (_, _, group)) in groups.iter().enumerate() {
        let look = if group.actors.iter().all(|actor| actor.is_agent()) {
            Look::Agent
        } else if group.has_agents() {
            Look::Mixed
        } else if group.bearers.contains(&Bearer::NoToken) {
            Look::Nobody
        } else {
            Look::Somebody
        };
        let (roles, actors) = (view.roles(group), group.who_acts());
        let actors = if actors == "-" { String::new() } else { actors };
        draw_box(page, look, MIDDLE, middle_of(at, groups.len()), &roles, Some(&actors));
    }
    for (at, part) in view.parts.iter().enumerate() {
        draw_box(page, Look::Route, RIGHT, middle_of(at, view.parts.len()), part.route.name.as_str(), None);
    }
    page.raw("</svg>\n");
}

fn draw_edge(edge: &Edge, page: &mut Page) {
    let (from, to) = (edge.from, edge.to);
    let bend = (to.0 - from.0) / 2;
    // colours as attributes for whatever reads no style sheet; the page's has others for the dark
    page.raw(if edge.agents {
        "<path class=\"edge agent\" fill=\"none\" stroke=\"#a8480b\" stroke-dasharray=\"7 4\" opacity=\".8\" d=\"M"
    } else {
        "<path class=\"edge\" fill=\"none\" stroke=\"#1f5fa8\" opacity=\".55\" d=\"M"
    });
    page.text(from.0).raw(" ").text(from.1).raw(" C").text(from.0 + bend).raw(" ").text(from.1).raw(" ");
    page.text(to.0 - bend).raw(" ").text(to.1).raw(" ").text(to.0).raw(" ").text(to.1);
    page.raw("\" stroke-width=\"").text(edge.width).raw("\"/>\n");
    if !edge.label.is_empty() {
        page.raw("<text class=\"label\" fill=\"#1b2430\" font-size=\"11.5\" font-weight=\"600\" x=\"")
            .text(from.0 + 12)
            .raw("\" y=\"")
            .text(from.1 - 7)
            .raw("\">");
        // beside the box that it leaves, where no two lines of one box can hide each other's
        page.text(short(&edge.label, CHARS_MAX)).raw("</text>\n");
    }
}

fn draw_box(
    page: &mut Page,
    look: Look,
    (x, width): (usize, usize),
    middle: usize,
    name: &str,
    below: Option<&str>,
) {
    let below = below.filter(|below| !below.is_empty());
    page.raw(look.group()).raw("<title>").text(name);
    if let Some(below) = below {
        page.raw(" · ").text(below);
    }
    page.raw("</title><rect x=\"").text(x).raw("\" y=\"").text(middle - BOX_HEIGHT / 2);
    page.raw("\" width=\"").text(width).raw("\" height=\"").text(BOX_HEIGHT).raw("\" rx=\"8\"/>");
    let first = if below.is_some() { middle - 4 } else { middle + 5 };
    page.raw("<text fill=\"#1b2430\" stroke=\"none\" x=\"")
        .text(x + 14)
        .raw("\" y=\"")
        .text(first)
        .raw("\">");
    page.text(short(name, CHARS_MAX * width / MIDDLE.1)).raw("</text>");
    if let Some(below) = below {
        page.raw("<text class=\"below\" fill=\"#5a6675\" stroke=\"none\" font-size=\"12.5\" x=\"")
            .text(x + 14)
            .raw("\" y=\"")
            .text(middle + 14)
            .raw("\">");
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

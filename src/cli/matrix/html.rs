//! The table as one page that needs nothing else: a picture, the table, and every rule that is spoken of.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::page::Page;
use super::picture;
use super::view::{Part, Reach, View};
use crate::access::Cell;
use crate::identity::Name;

const STYLE: &str = include_str!("style.css");
/// Hides rows; all is there without it.
const SCRIPT: &str = include_str!("filter.js");

pub fn page(view: &View<'_>, proxy: &Name) -> String {
    let mut page = Page::default();
    page.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    // Only what this program wrote runs, and nothing is fetched, whatever a name in the policy looks like.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, SCRIPT.as_bytes());
    page.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; ");
    page.raw("script-src 'sha256-").text(BASE64_STANDARD.encode(digest)).raw("'\">\n");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.element("<title>Who reaches what: ", proxy, "</title>\n<style>\n")
        .raw(STYLE)
        .raw("</style>\n</head>\n<body>\n");
    page.element("<h1>Who reaches what through ", proxy, "</h1>\n");
    page.element("<p class=\"facts\">Policy <span class=\"hash\">", view.policy.hash(), "</span>, ");
    page.element("from ", view.at, " on. ");
    page.text(view.matrix.rows.len() - view.closed_rows()).raw(" kinds of requesters reach something, ");
    page.text(view.closed_rows()).raw(" reach nothing.</p>\n");
    for (route, until) in view.unenforced() {
        page.element("<p class=\"warning\">Route <strong>", route, "</strong> is not enforced until ");
        page.text(until)
            .raw(": until then whoever nothing forbids comes in (<code>shadow_until</code>).</p>\n");
    }
    page.raw("<main>\n<h2 id=\"picture\">The picture</h2>\n<figure>\n");
    picture::draw(view, &mut page);
    page.raw("</figure>\n");
    table(view, &mut page);
    rules(view, &mut page);
    key(&mut page);
    page.raw("</main>\n<script>").raw(SCRIPT).raw("</script>\n</body>\n</html>\n");
    page.finish()
}

fn table(view: &View<'_>, page: &mut Page) {
    page.raw("<h2 id=\"table\">The table</h2>\n<form class=\"filters\" hidden>\n");
    page.raw("<label>Service <input type=\"search\" name=\"service\" autocomplete=\"off\"></label>\n");
    page.raw("<label>Role <input type=\"search\" name=\"role\" autocomplete=\"off\"></label>\n");
    page.raw("<label>Actor <input type=\"search\" name=\"actor\" autocomplete=\"off\"></label>\n");
    page.raw("<label>Route <input type=\"search\" name=\"route\" autocomplete=\"off\"></label>\n");
    page.raw("<output id=\"shown\"></output>\n</form>\n");
    page.raw("<p class=\"facts\">One table for each route. Requesters with the same rights share a row; numbers and ");
    page.raw("letters are rules, below.</p>\n");
    view.parts.iter().for_each(|part| of_route(view, part, page));
    if view.parts.is_empty() {
        page.raw("<p>Nobody reaches anything.</p>\n");
    }
}

fn of_route(view: &View<'_>, part: &Part<'_>, page: &mut Page) {
    let route = &part.route.name;
    page.element(
        "<div class=\"scroll\">\n<table>\n<caption>Route <strong>",
        route,
        "</strong></caption>\n<thead>\n<tr>",
    );
    page.raw("<th scope=\"col\">Service</th><th scope=\"col\">Role</th><th scope=\"col\">Actor</th>");
    for span in &part.spans {
        page.element("<th scope=\"col\" class=\"methods\">", span.methods.join(" "), "</th>");
    }
    page.raw("</tr>\n</thead>\n<tbody>\n");
    for group in &part.groups {
        let actors = group.actors().join(", ");
        let [every_service, every_role] = view.names(group);
        page.element("<tr data-service=\"", every_service, "\" data-role=\"").text(every_role);
        page.element("\" data-actor=\"", &actors, "\" data-route=\"").text(route).raw("\">");
        page.element("<th scope=\"row\">", view.services(group), "</th>");
        page.element("<td>", view.roles(group), "</td>");
        page.raw(if group.has_agents() { "<td class=\"agent-name\">" } else { "<td>" });
        page.text(group.who_acts()).raw("</td>");
        part.spans.iter().for_each(|span| cell_of(view, &group.cells[span.at], page));
        page.raw("</tr>\n");
    }
    page.raw("</tbody>\n</table>\n</div>\n");
}

fn cell_of(view: &View<'_>, cell: &Cell, page: &mut Page) {
    let reach = Reach::of(cell);
    page.raw(match reach {
        Reach::Always => "<td class=\"always\" title=\"",
        Reach::Sometimes => "<td class=\"sometimes\" title=\"",
        Reach::Never => "<td class=\"never\" title=\"",
    });
    page.text(reach.word());
    for said in view.in_words(cell) {
        page.raw("; by ").text(said);
    }
    page.raw("\">").text(reach.sign());
    page.raw(match reach {
        Reach::Always => " always",
        Reach::Sometimes => " sometimes",
        Reach::Never => "",
    });
    for (grant, said) in cell.grants.iter().zip(view.grants(cell)) {
        page.raw(" <a href=\"#rule-").text(view.number(grant.rule)).raw("\">").text(said).raw("</a>");
    }
    page.raw("</td>");
}

fn rules(view: &View<'_>, page: &mut Page) {
    page.raw("<h2 id=\"rules\">The rules</h2>\n<ul class=\"rules\">\n");
    let allows = view.allows.iter().map(|id| (view.number(*id).to_string(), *id, view.says(*id)));
    let barriers = view.barriers.iter().map(|id| (view.letter(*id), *id, view.says(*id)));
    for (sign, id, said) in allows.chain(barriers) {
        let rule = view.rule(id);
        page.element("<li id=\"rule-", &sign, "\">").element("<span class=\"sign\">", &sign, "</span>");
        page.element("<span class=\"effect\">", rule.effect.as_str(), "</span>");
        page.element("<div><strong>", &rule.name, "</strong>");
        for (what, value) in [(" · owner ", &rule.owner), (" · ticket ", &rule.ticket)] {
            if let Some(value) = value {
                page.raw(what).text(value);
            }
        }
        page.raw("<ul class=\"says\">");
        for condition in said {
            page.element("<li class=\"says\">", condition, "</li>");
        }
        page.raw("</ul></div></li>\n");
    }
    page.raw("</ul>\n");
}

fn key(page: &mut Page) {
    page.raw("<h2 id=\"key\">How to read it</h2>\n<dl class=\"key\">\n");
    page.raw("<dt>● always</dt><dd>An allow wants nothing beyond the row and the column, and no deny or require speaks ");
    page.raw("of such requests.</dd>\n<dt>◐ sometimes</dt><dd>There are requests that are permitted: each rule says under ");
    page.raw("which conditions. For each there is one that the evaluator permits (<code>--format json</code>).</dd>\n");
    page.raw("<dt>· never</dt><dd>No request of this row and column is permitted, whatever else its token or certificate ");
    page.raw("has.</dd>\n<dt>1 −a +b</dt><dd>By rule 1; but not where deny a holds; and where require b reaches, only with ");
    page.raw("what it demands.</dd>\n<dt>role</dt><dd>Each by itself, with those that it brings along. <em>no role</em>: a ");
    page.raw("caller with none; <em>no token</em>: nobody is called.</dd>\n<dt>actor</dt><dd><em>agent for human</em>: an agent ");
    page.raw("uses what a person may; <em>for another</em>: what the token calls somebody else's (<code>act</code>).</dd>\n");
    page.raw(
        "<dt>picture</dt><dd>An orange box: agents; with an orange border alone: agents among others. The thicker a line, the more methods.</dd>\n</dl>\n",
    );
}

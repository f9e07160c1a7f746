//! What was measured in full, place by place, so that one page can show what several runs have found: the page itself keeps
//! it, on whatever machine the next run is.

use anyhow::Result;

use super::place::Place;

/// The page's sections in its order: the new ones, and of all other places what was published.
pub(super) fn merged(published: &str, new: &[(Place, String)]) -> Result<Vec<String>> {
    let sections = Place::all()?.into_iter().filter_map(|place| {
        let measured = new.iter().find(|(of, _)| *of == place).map(|(_, section)| section.clone());
        measured.or_else(|| section(published, &place.title()))
    });
    Ok(sections.collect())
}

/// The section with this title, if the page has it.
pub(super) fn section(page: &str, title: &str) -> Option<String> {
    let heading = format!("\n## {title}\n");
    let start = page.find(&heading)? + 1;
    let text = &page[start..];
    let end = text.find("\n## ").unwrap_or(text.len());
    Some(format!("{}\n", text[..end].trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_run_replaces_its_place_only() {
        let (here, far): (_, Place) = (Place::Here, "80ms".parse().unwrap());
        let of = |place: Place, text: &str| format!("## {}\n\n{text}\n", place.title());
        let page =
            |sections: &[String]| format!("# P\n\nTop.\n\n{}\n## Limits\n\nNone.\n", sections.join("\n"));
        let first = merged("", &[(far, of(far, "far"))]).unwrap();
        assert_eq!(first, [of(far, "far")]);
        let second = merged(&page(&first), &[(here, of(here, "here"))]).unwrap();
        assert_eq!(second, [of(here, "here"), of(far, "far")]);
        let third = merged(&page(&second), &[(far, of(far, "far again"))]).unwrap();
        assert_eq!(third, [of(here, "here"), of(far, "far again")]);
        assert_eq!(section(&page(&third), "Limits").unwrap(), "## Limits\n\nNone.\n");
        assert_eq!(section(&page(&third), "Lim"), None);
    }
}

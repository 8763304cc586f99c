//! The text around the table: when, where, and of which code.

use std::{fs::OpenOptions, io::Write as _, path::Path};

use crate::{
    machine::Description,
    table::{self, Section},
};

/// The complete report, in Markdown.
pub(crate) fn render(description: &Description, sections: &[Section]) -> String {
    let Description { date, commit, cpu, cores, others } = description;
    let (others, table) = (others * 100.0, table::render(sections));
    format!(
        "## {date}, commit {commit}\n\n\
        {cpu}, {cores} cores; other processes used {others:.0} % of the machine meanwhile. Every figure is the median, and in \
        brackets between which half of the rounds lie.\n\n{table}"
    )
}

/// Appends `report` to `benches/RESULTS.md`.
pub(crate) fn append(report: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md");
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    if file.metadata().unwrap().len() == 0 {
        file.write_all(b"# Results\n\nWritten by `cargo bench --bench load -- --write-results`, the newest last.\n\n").unwrap();
    }
    writeln!(file, "{report}").unwrap();
}

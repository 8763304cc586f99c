//! The screen's panels. What does not fit is left out, from the bottom.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Cell, Paragraph, Row, Sparkline, Table, TableState},
};

use super::{
    figures::Figures,
    histogram::Quantiles,
    replica::{Replica, State},
    screen::{Screen, Snapshot},
    units,
};

const OUTCOMES: [&str; 3] = ["allowed", "denied", "unavailable"];
/// Below this height, only the decisions are shown.
const TALL: u16 = 16;
/// From this width, rows have more columns.
const WIDE: u16 = 100;

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let figures = Figures::of(screen.chosen(), screen.shown().at);
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(header(screen), head);
    frame.render_widget(
        Line::from("q quit   p pause   r reset   \u{2190} \u{2192} replica").dim(),
        foot,
    );
    if body.height < TALL {
        return decisions(frame, body, screen, &figures);
    }
    let rows = screen.shown().replicas.len() + usize::from(has_sum(screen.shown()));
    let of_replicas =
        u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(3).min(body.height / 3);
    let [upper, middle, lower] = Layout::vertical([
        Constraint::Length(9),
        Constraint::Fill(1),
        Constraint::Length(of_replicas),
    ])
    .areas(body);
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(upper);
    decisions(frame, left, screen, &figures);
    frame.render_widget(times(&figures), right);
    let [left, right] =
        Layout::horizontal([Constraint::Fill(2), Constraint::Fill(3)]).areas(middle);
    frame.render_widget(denials(&figures), left);
    frame.render_widget(states(&figures), right);
    replicas(frame, lower, screen);
}

fn header(screen: &Screen) -> Line<'static> {
    let what = match screen.chosen() {
        [replica] => replica.url.clone(),
        replicas => format!("{} replicas", replicas.len()),
    };
    let every = humantime::format_duration(screen.interval);
    let mut line = Line::from(vec![
        " countersign top ".bold().reversed(),
        Span::raw(format!("  {what}, every {every}")),
    ]);
    if screen.is_paused() {
        line.push_span("  PAUSED".bold().yellow());
    }
    line
}

/// By door and outcome, with a sparkline of recent rates.
fn decisions(frame: &mut Frame<'_>, area: Rect, screen: &Screen, figures: &Figures) {
    let block = Block::bordered().title("Decisions per second");
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let all = std::iter::once(("all", None)).filter(|_| inside.height > 4);
    let rows: Vec<Row<'_>> = figures
        .doors()
        .into_iter()
        .map(|door| (door, Some(door)))
        .chain(all)
        .map(|(name, door)| {
            let rate = |outcome| right(units::number(figures.decided(door, outcome)));
            Row::new(std::iter::once(Cell::from(name.to_owned())).chain(OUTCOMES.map(rate)))
        })
        .collect();
    let of_table = u16::try_from(rows.len() + 1).unwrap_or(u16::MAX);
    let [upper, lower] =
        Layout::vertical([Constraint::Length(of_table), Constraint::Fill(1)]).areas(inside);
    let widths =
        [Constraint::Fill(1), Constraint::Length(8), Constraint::Length(7), Constraint::Length(11)];
    frame.render_widget(
        Table::new(rows, widths).header(headings(&["", OUTCOMES[0], OUTCOMES[1], OUTCOMES[2]])),
        upper,
    );
    let history = history(screen.chosen(), usize::from(lower.width));
    frame.render_widget(
        Sparkline::default().data(history).style(Style::new().fg(Color::Cyan)),
        lower,
    );
}

/// The sum over the replicas for the last scrapes that fit, in hundredths, so that a few decisions
/// per minute are visible, too.
fn history(replicas: &[Replica], width: usize) -> Vec<u64> {
    let longest = replicas.iter().map(|replica| replica.history.len()).max().unwrap_or_default();
    let sum = |ago: usize| -> f64 {
        replicas
            .iter()
            .filter_map(|replica| {
                replica.history.len().checked_sub(ago).and_then(|at| replica.history.get(at))
            })
            .sum()
    };
    (1..=longest.min(width)).rev().map(|ago| units::whole(sum(ago) * 100.0)).collect()
}

/// Quantiles of the last interval, and since the view began.
fn times(figures: &Figures) -> Table<'static> {
    let row = |name: &str, Quantiles { p50, p90, p99, .. }: Quantiles| {
        let values = [p50, p90, p99].map(|value| right(units::quantile(value)));
        Row::new(std::iter::once(Cell::from(name.to_owned())).chain(values))
    };
    let rows = figures.spreads().into_iter().flat_map(|(name, spread)| {
        [
            row(name, spread.now),
            row("since reset", spread.counted).style(Style::new().add_modifier(Modifier::DIM)),
        ]
    });
    let widths =
        [Constraint::Fill(1), Constraint::Length(8), Constraint::Length(8), Constraint::Length(8)];
    Table::new(rows, widths)
        .header(headings(&["", "p50", "p90", "p99"]))
        .block(Block::bordered().title("Times"))
}

/// The most frequent first.
fn denials(figures: &Figures) -> Table<'static> {
    let rows = figures.denials.iter().map(|denial| {
        Row::new([
            Cell::from(denial.reason.clone()),
            right(units::number(denial.per_second)),
            right(units::number(denial.counted)),
        ])
    });
    let widths = [Constraint::Fill(1), Constraint::Length(6), Constraint::Length(7)];
    Table::new(rows.collect::<Vec<_>>(), widths)
        .header(headings(&["", "per s", "count"]))
        .block(Block::bordered().title("Denials by reason"))
}

/// The state of dependencies, and resource use.
fn states(figures: &Figures) -> Paragraph<'static> {
    let any_is_down = figures.stores_up.values().any(|is_up| !is_up);
    let lines = figures.rows().into_iter().map(|(name, value)| {
        let value = if value.is_empty() { units::NONE.to_owned() } else { value };
        let value =
            if name == "stores" && any_is_down { value.bold().red() } else { Span::raw(value) };
        Line::from(vec![format!("{name:<10}").dim(), value])
    });
    Paragraph::new(lines.collect::<Vec<_>>()).block(Block::bordered().title("State"))
}

/// One row per replica, after a row for all together; the selected row is marked.
fn replicas(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let snapshot = screen.shown();
    let is_wide = area.width >= WIDE;
    let sum = has_sum(snapshot)
        .then(|| replica_row("all", &state_of_all(snapshot), &snapshot.figures(), is_wide));
    let each = snapshot.replicas.iter().map(|replica| {
        replica_row(
            &replica.url,
            &(replica.state.to_string(), colour(&replica.state)),
            &snapshot.figures_of(replica),
            is_wide,
        )
    });
    let mut titles = vec!["replica", "state", "per s", "CPU", "memory", "uptime"];
    let mut widths = vec![
        Constraint::Fill(1),
        Constraint::Fill(1),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(7),
    ];
    if is_wide {
        titles.extend(["restarts", "version"]);
        widths.extend([Constraint::Length(8), Constraint::Length(10)]);
    }
    let rows: Vec<Row<'_>> = sum.into_iter().chain(each).collect();
    let table = Table::new(rows, widths)
        .header(headings(&titles))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title("Replicas"));
    let place = screen.selected().map_or(0, |index| index + usize::from(has_sum(snapshot)));
    let mut state = TableState::new().with_selected(has_sum(snapshot).then_some(place));
    frame.render_stateful_widget(table, area, &mut state);
}

fn replica_row(
    name: &str,
    (state, colour): &(String, Color),
    figures: &Figures,
    is_wide: bool,
) -> Row<'static> {
    let or_none = |value: Option<f64>, unit: fn(f64) -> String| {
        right(value.map_or_else(|| units::NONE.to_owned(), unit))
    };
    let decided: f64 = OUTCOMES.iter().map(|outcome| figures.decided(None, outcome)).sum();
    let mut cells = vec![
        Cell::from(name.to_owned()),
        Cell::from(Span::styled(state.clone(), *colour)),
        right(units::number(decided)),
        or_none(figures.cpu_cores, units::share),
        or_none(figures.resident_memory_bytes, units::bytes),
        or_none(figures.uptime_seconds, units::duration),
    ];
    if is_wide {
        cells.push(right(units::number(figures.restarts.into())));
        cells
            .push(right(figures.versions.iter().map(String::as_str).collect::<Vec<_>>().join(" ")));
    }
    Row::new(cells)
}

/// A sum makes sense only with several replicas.
fn has_sum(snapshot: &Snapshot) -> bool {
    snapshot.replicas.len() > 1
}

fn state_of_all(snapshot: &Snapshot) -> (String, Color) {
    let up = snapshot.replicas.iter().filter(|replica| replica.state == State::Up).count();
    let all = snapshot.replicas.len();
    (format!("{up} of {all} up"), if up == all { Color::Green } else { Color::Red })
}

fn colour(state: &State) -> Color {
    match state {
        State::Unknown => Color::Reset,
        State::Up => Color::Green,
        State::NotReady(_) => Color::Yellow,
        State::Unreachable(_) => Color::Red,
    }
}

/// The first column names rows, the others are numbers.
fn headings(titles: &[&'static str]) -> Row<'static> {
    let is_text = |title: &str| ["", "replica", "state"].contains(&title);
    let cells = titles
        .iter()
        .map(|title| if is_text(title) { Cell::from(*title) } else { right((*title).to_owned()) });
    Row::new(cells).style(Style::new().add_modifier(Modifier::DIM))
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::Duration};

use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode};

use super::*;
use crate::cli::top::fixtures;

#[test]
fn one_replica_fits_the_smallest_usual_terminal() {
    compare("80x24", &drawn(&screen(fixtures::one()), 80, 24));
}

#[test]
fn several_replicas_on_a_larger_one() {
    compare("120x40", &drawn(&screen(fixtures::three()), 120, 40));
}

#[test]
fn a_chosen_replica_is_shown_alone_and_a_pause_is_told() {
    let mut screen = screen(fixtures::three());
    screen.press(KeyCode::Down.into());
    screen.press(KeyCode::Char('p').into());
    let text = drawn(&screen, 120, 40);
    let header = text.lines().next().unwrap();
    assert!(header.contains("http://10.0.0.1:8081, every 2s"), "{header}");
    assert!(header.contains("PAUSED"), "{header}");
    assert!(text.contains("1200"), "{text}");
}

#[test]
fn before_the_first_look_there_is_nothing_to_show() {
    let text = drawn(&screen(Snapshot::of(["http://127.0.0.1:8081"])), 80, 24);
    assert!(text.contains("not asked yet"), "{text}");
}

#[test]
fn no_size_is_too_small_or_too_large() {
    for snapshot in [Snapshot::of([]), Snapshot::of(["a"]), fixtures::one(), fixtures::three()] {
        let mut screen = screen(snapshot);
        screen.press(KeyCode::Up.into());
        for (width, height) in
            [(1, 1), (2, 2), (20, 5), (5, 20), (40, 15), (300, 100), (80, 17), (17, 80)]
        {
            drawn(&screen, width, height);
        }
    }
    assert!(drawn(&screen(fixtures::one()), 20, 5).contains("countersign top"));
}

#[test]
fn more_replicas_than_rows_scroll_to_the_chosen_one() {
    let urls: Vec<String> = (0..40).map(|index| format!("http://10.0.0.{index}:8081")).collect();
    let mut screen = screen(Snapshot::of(urls.iter().map(String::as_str)));
    screen.press(KeyCode::Up.into());
    assert!(drawn(&screen, 80, 24).lines().skip(1).any(|line| line.contains("http://10.0.0.39")));
}

fn screen(snapshot: Snapshot) -> Screen {
    Screen::new(snapshot, Duration::from_secs(2))
}

/// The characters on the screen, line by line.
fn drawn(screen: &Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, screen)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| {
        (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned() + "\n"
    };
    (0..height).map(line).collect()
}

/// Compares with a checked-in snapshot; `UPDATE_SNAPSHOTS=1` writes it.
fn compare(name: &str, text: &str) {
    let file =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("src/cli/top/view/{name}.txt"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == text,
        "{} has\n{kept}\nand this is drawn:\n{text}\nIf that is right, UPDATE_SNAPSHOTS=1 keeps it",
        file.display()
    );
}

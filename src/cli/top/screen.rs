//! The state of the screen, and what keys do to it.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    figures::Figures,
    replica::{Look, Replica},
};

/// All replicas at the time of one scrape.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) replicas: Vec<Replica>,
    /// In seconds since 1970.
    pub(super) at: f64,
}

#[derive(Debug)]
pub(super) struct Screen {
    live: Snapshot,
    /// The snapshot shown while paused; scraping continues in the background.
    frozen: Option<Snapshot>,
    /// Index of the only replica shown; `None` shows all.
    selected: Option<usize>,
    pub(super) interval: Duration,
}

/// The action of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    GoOn,
    Quit,
}

impl Snapshot {
    pub(super) fn of<'a>(urls: impl IntoIterator<Item = &'a str>) -> Self {
        Self { replicas: urls.into_iter().map(Replica::at).collect(), at: 0.0 }
    }

    pub(super) fn take(&mut self, looks: Vec<Look>, at: f64) {
        for (replica, look) in self.replicas.iter_mut().zip(looks) {
            replica.take(look);
        }
        self.at = at;
    }

    /// The figures of all replicas together.
    pub(super) fn figures(&self) -> Figures {
        Figures::of(&self.replicas, self.at)
    }

    pub(super) fn figures_of(&self, replica: &Replica) -> Figures {
        Figures::of([replica], self.at)
    }
}

impl Screen {
    pub(super) fn new(snapshot: Snapshot, interval: Duration) -> Self {
        Self { live: snapshot, frozen: None, selected: None, interval }
    }

    pub(super) fn take(&mut self, looks: Vec<Look>, at: f64) {
        self.live.take(looks, at);
    }

    pub(super) fn shown(&self) -> &Snapshot {
        self.frozen.as_ref().unwrap_or(&self.live)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.frozen.is_some()
    }

    /// The replicas whose figures are shown: one, or all.
    pub(super) fn chosen(&self) -> &[Replica] {
        let replicas = &self.shown().replicas;
        self.selected.and_then(|index| replicas.get(index..=index)).unwrap_or(replicas)
    }

    pub(super) fn selected(&self) -> Option<usize> {
        self.selected
    }

    pub(super) fn press(&mut self, key: KeyEvent) -> Flow {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if is_control => return Flow::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Flow::Quit,
            KeyCode::Char('p' | ' ') => {
                self.frozen = if self.is_paused() { None } else { Some(self.live.clone()) }
            }
            KeyCode::Char('r') => {
                self.frozen = None;
                self.live.replicas.iter_mut().for_each(Replica::reset);
            }
            KeyCode::Down | KeyCode::Right | KeyCode::Tab => self.select(1),
            KeyCode::Up | KeyCode::Left | KeyCode::BackTab => self.select(self.live.replicas.len()),
            _ => {}
        }
        Flow::GoOn
    }

    /// Moves the selection by `places`, in a cycle of all together and each alone.
    fn select(&mut self, places: usize) {
        let place = self.selected.map_or(0, |index| index + 1);
        self.selected = ((place + places) % (self.live.replicas.len() + 1)).checked_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen() -> Screen {
        Screen::new(Snapshot::of(["a", "b"]), Duration::from_secs(1))
    }

    fn press(screen: &mut Screen, code: KeyCode) -> Flow {
        screen.press(KeyEvent::from(code))
    }

    #[test]
    fn three_keys_quit() {
        for key in [
            KeyEvent::from(KeyCode::Char('q')),
            KeyEvent::from(KeyCode::Esc),
            KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL),
        ] {
            assert_eq!(screen().press(key), Flow::Quit);
        }
        assert_eq!(press(&mut screen(), KeyCode::Char('c')), Flow::GoOn);
    }

    #[test]
    fn arrows_go_around() {
        let mut screen = screen();
        let after: Vec<_> = [
            KeyCode::Down,
            KeyCode::Tab,
            KeyCode::Right,
            KeyCode::Up,
            KeyCode::Left,
            KeyCode::BackTab,
        ]
        .map(|code| {
            press(&mut screen, code);
            screen.selected()
        })
        .into();
        assert_eq!(after, [Some(0), Some(1), None, Some(1), Some(0), None]);
        assert_eq!(screen.chosen().len(), 2);
        press(&mut screen, KeyCode::Down);
        assert_eq!(screen.chosen()[0].url, "a");
    }

    #[test]
    fn while_paused_what_is_shown_stays() {
        let mut screen = screen();
        press(&mut screen, KeyCode::Char('p'));
        screen.take(Vec::new(), 7.0);
        assert_eq!((screen.is_paused(), screen.shown().at.to_bits()), (true, 0.0_f64.to_bits()));
        press(&mut screen, KeyCode::Char('p'));
        assert_eq!((screen.is_paused(), screen.shown().at.to_bits()), (false, 7.0_f64.to_bits()));
    }
}

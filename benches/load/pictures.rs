//! The pictures of a run, in addition to its tables: `benches/pictures/*.svg`. They have a white
//! background, which is readable on any page.

use std::{fs, path::Path};

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{machine::Description, table::Spread};

const WIDTH: u32 = 920;
const FONT: &str = "sans-serif";
const TEXT: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(225, 225, 225);
// Okabe and Ito's colours, which colour-blind people can distinguish.
const BLUE: RGBColor = RGBColor(0, 114, 178);
const SKY: RGBColor = RGBColor(86, 180, 233);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const VERMILION: RGBColor = RGBColor(213, 94, 0);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The parts of one kind of decision, in microseconds of CPU time.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    /// Such as `HTTP, RS256, Redis`.
    pub(crate) label: String,
    /// The server that gives every request the same answer.
    pub(crate) transport_us: f64,
    /// Parsing and verifying the token.
    pub(crate) verify_us: f64,
    /// 0 if no nonce is claimed, or if that costs next to nothing.
    pub(crate) claim_us: f64,
    /// The whole decision in our service.
    pub(crate) ours_us: f64,
}

/// Latencies at one load, in microseconds.
pub(crate) type AtLoad = (f64, f64, f64, f64);

/// When and where the figures were taken, and of which code: printed under every picture.
pub(crate) fn caption(description: &Description) -> String {
    let Description { date, commit, cpu, cores, .. } = description;
    format!("{date}, commit {commit}, {cpu}, {cores} cores")
}

/// The cost of each kind of decision, part by part, with the floors alone below it. Returns the
/// reference to the picture, in Markdown.
pub(crate) fn cost_by_part(decisions: &[Decision], caption: &str) -> String {
    const ROW: f64 = 3.0;
    const BAR: f64 = 1.1;

    let picture = Picture {
        file: "cost-by-part.svg",
        title: "CPU time per allowed decision, by part",
        caption,
    };
    let legend = Part::ALL.map(|part| (part.name(), part.colour()));
    let height = 170 + 62 * u32::try_from(decisions.len()).unwrap();
    picture.draw(height, &legend, |area| {
        let rows = ROW * decisions.len() as f64;
        let longest = decisions
            .iter()
            .map(|decision| decision.ours_us.max(decision.floors_us()))
            .fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .margin_right(20)
            .x_label_area_size(44)
            .y_label_area_size(180)
            .build_cartesian_2d(0.0..longest * 1.32, 0.0..rows)
            .unwrap();
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .x_desc("microseconds of CPU time, user and system")
            .x_label_formatter(&|us| short(*us))
            .label_style(text(14))
            .axis_desc_style(text(14))
            .draw()
            .unwrap();
        for (number, decision) in decisions.iter().enumerate() {
            // The first is at the top.
            let top = rows - ROW * number as f64 - (ROW - 2.0 * BAR) / 2.0;
            let middle = top - BAR;
            for (part, [from, to]) in decision.parts() {
                let ours = Rectangle::new(
                    [(from, top - 0.04), (to, middle + 0.04)],
                    part.colour().filled(),
                );
                chart.draw_series([ours]).unwrap();
                if part != Part::Rest {
                    let floor = Rectangle::new(
                        [(from, middle - 0.04), (to, middle - BAR + 0.04)],
                        part.colour().mix(0.45).filled(),
                    );
                    chart.draw_series([floor]).unwrap();
                }
            }
            let (ours, floors) = (decision.ours_us, decision.floors_us());
            let ends = [
                (
                    format!("{ours:.1} µs = {:.2} × floors", ours / floors),
                    ours.max(floors),
                    top - BAR / 2.0,
                ),
                (format!("floors {floors:.1} µs"), floors, middle - BAR / 2.0),
            ];
            for (words, x, y) in ends {
                write(area, chart.backend_coord(&(x, y)), (6, 0), &words, &left(&text(13)));
            }
            let right = text(14).pos(Pos::new(HPos::Right, VPos::Center));
            write(area, chart.backend_coord(&(0.0, middle)), (-10, 0), &decision.label, &right);
        }
    })
}

/// p50, p99 and p99.9 of each server against the offered load. Returns the reference to the
/// picture, in Markdown.
pub(crate) fn latency_against_load(servers: &[(&str, &[AtLoad])], caption: &str) -> String {
    let picture = Picture {
        file: "latency-against-load.svg",
        title: "Latency against load, open loop: Ed25519, Redis nonces",
        caption,
    };
    let colours = [BLUE, VERMILION, GREEN, ORANGE, SKY];
    let legend: Vec<_> =
        servers.iter().map(|(label, _)| *label).zip(colours.into_iter().cycle()).collect();
    picture.draw(520, &legend, |area| {
        let points = || servers.iter().flat_map(|(_, points)| points.iter());
        let busiest = points().map(|(load, ..)| *load).fold(1.0, f64::max);
        let fastest = points().map(|(_, p50, ..)| p50 / 1000.0).fold(f64::INFINITY, f64::min);
        let slowest = points().map(|(.., p999)| p999 / 1000.0).fold(fastest, f64::max);
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .margin_right(150)
            .x_label_area_size(44)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..busiest * 1.02, (fastest * 0.7..slowest * 1.4).log_scale())
            .unwrap();
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .x_desc("decisions per second")
            .y_desc("milliseconds (log scale)")
            .x_label_formatter(&|load| thousands(*load))
            .y_label_formatter(&|milliseconds| {
                if is_round(*milliseconds) { short(*milliseconds) } else { String::new() }
            })
            .label_style(text(14))
            .axis_desc_style(text(14))
            .draw()
            .unwrap();
        let quantiles = [("p50", 3, 1.0), ("p99", 2, 0.75), ("p99.9", 1, 0.6)];
        let mut ends = Vec::new();
        for ((label, points), colour) in servers.iter().zip(colours.into_iter().cycle()) {
            for (place, (name, width, strength)) in quantiles.into_iter().enumerate() {
                let line = || {
                    points
                        .iter()
                        .map(|(load, p50, p99, p999)| (*load, [p50, p99, p999][place] / 1000.0))
                };
                let style = colour.mix(strength).stroke_width(width);
                chart.draw_series(LineSeries::new(line(), style)).unwrap();
                chart
                    .draw_series(line().map(|point| {
                        Circle::new(point, 2 + width / 2, colour.mix(strength).filled())
                    }))
                    .unwrap();
                if let Some(last) = line().next_back() {
                    let (_, y) = chart.plotting_area().map_coordinate(&last);
                    ends.push((y, last, format!("{label} {name}"), colour));
                }
            }
        }
        // Each line is named at its end, below the name above it if two would overlap.
        ends.sort_by_key(|(y, ..)| *y);
        let mut free_from = 0;
        for (y, last, words, colour) in ends {
            let down = (free_from - y).max(0);
            free_from = y + down + 15;
            write(
                area,
                chart.backend_coord(&last),
                (8, down),
                &words,
                &left(&text(13)).color(&colour),
            );
        }
    })
}

/// The cost of a decision against the number of registered principals. Returns the reference to the
/// picture, in Markdown.
pub(crate) fn cost_against_principals(points: &[(usize, Spread)], caption: &str) -> String {
    let picture = Picture {
        file: "cost-against-principals.svg",
        title: "CPU time per allowed decision against registered principals",
        caption,
    };
    picture.draw(
        460,
        &[("median of the rounds; the stroke spans the middle half of them", BLUE)],
        |area| {
            let of = |(principals, spread): &(usize, Spread), quantile| {
                (*principals as f64, spread.quantile(quantile))
            };
            let most = points.iter().map(|point| point.0 as f64).fold(1.0, f64::max);
            let least = points.iter().map(|point| point.0 as f64).fold(most, f64::min);
            let highest = points.iter().map(|point| of(point, 0.75).1).fold(1.0, f64::max);
            let mut chart = ChartBuilder::on(area)
                .margin(10)
                .margin_right(30)
                .x_label_area_size(44)
                .y_label_area_size(70)
                .build_cartesian_2d((least * 0.7..most * 1.45).log_scale(), 0.0..highest * 1.25)
                .unwrap();
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(FAINT)
                .x_desc("principals in the registry (log scale)")
                .y_desc("microseconds")
                .x_label_formatter(&|principals| thousands(*principals))
                .y_label_formatter(&|us| short(*us))
                .label_style(text(14))
                .axis_desc_style(text(14))
                .draw()
                .unwrap();
            chart
                .draw_series(LineSeries::new(
                    points.iter().map(|point| of(point, 0.5)),
                    BLUE.stroke_width(3),
                ))
                .unwrap();
            for point in points {
                let (middle, low, high) = (of(point, 0.5), of(point, 0.25), of(point, 0.75));
                chart
                    .draw_series([PathElement::new([low, high], BLUE.mix(0.6).stroke_width(2))])
                    .unwrap();
                chart.draw_series([Circle::new(middle, 4, BLUE.filled())]).unwrap();
                let above = text(13).pos(Pos::new(HPos::Center, VPos::Bottom));
                write(
                    area,
                    chart.backend_coord(&high),
                    (0, -6),
                    &format!("{:.1}", middle.1),
                    &above,
                );
            }
        },
    )
}

/// The parts that the cost of a decision is split into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Transport,
    Verify,
    Claim,
    Rest,
}

impl Part {
    const ALL: [Self; 4] = [Self::Transport, Self::Verify, Self::Claim, Self::Rest];

    const fn name(self) -> &'static str {
        match self {
            Self::Transport => "null server",
            Self::Verify => "token and signature",
            Self::Claim => "nonce",
            Self::Rest => "everything else",
        }
    }

    const fn colour(self) -> RGBColor {
        match self {
            Self::Transport => BLUE,
            Self::Verify => GREEN,
            Self::Claim => ORANGE,
            Self::Rest => VERMILION,
        }
    }
}

impl Decision {
    fn floors_us(&self) -> f64 {
        self.transport_us + self.verify_us + self.claim_us
    }

    /// The start and end of each part, one after the other.
    fn parts(&self) -> impl Iterator<Item = (Part, [f64; 2])> {
        // In a noisy run our cost may be below the floors; then the rest is 0.
        let rest = (self.ours_us - self.floors_us()).max(0.0);
        let lengths = [self.transport_us, self.verify_us, self.claim_us, rest];
        let from = lengths.iter().scan(0.0, |end, length| {
            let from = *end;
            *end += length;
            Some([from, *end])
        });
        Part::ALL.into_iter().zip(from.collect::<Vec<_>>()).filter(|(_, [from, to])| to > from)
    }
}

struct Picture<'a> {
    file: &'a str,
    title: &'a str,
    caption: &'a str,
}

impl Picture<'_> {
    /// Draws between title and caption, and writes the file.
    fn draw(
        &self,
        height: u32,
        legend: &[(&str, RGBColor)],
        content: impl FnOnce(&Area<'_>),
    ) -> String {
        const TITLE: i32 = 64;
        const CAPTION: i32 = 24;

        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/pictures");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(self.file);
        let area = SVGBackend::new(&path, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).unwrap();
        let (title, rest) = area.split_vertically(TITLE);
        title.draw_text(self.title, &text(19), (16, 12)).unwrap();
        let mut x = 16;
        for (words, colour) in legend {
            title.draw(&Rectangle::new([(x, 42), (x + 14, 54)], colour.filled())).unwrap();
            title.draw_text(words, &left(&text(13)), (x + 20, 48)).unwrap();
            // The width of the reader's font is unknown.
            x += 20 + 8 * i32::try_from(words.len()).unwrap() + 24;
        }
        let (chart, caption) =
            rest.split_vertically(i32::try_from(height).unwrap() - TITLE - CAPTION);
        content(&chart);
        caption.draw_text(self.caption, &text(12).color(&TEXT.mix(0.8)), (16, 4)).unwrap();
        area.present().unwrap();
        format!("![{}](pictures/{})\n", self.title, self.file)
    }
}

fn text(size: u32) -> TextStyle<'static> {
    TextStyle::from((FONT, size).into_font()).color(&TEXT)
}

fn left<'a>(style: &TextStyle<'a>) -> TextStyle<'a> {
    style.pos(Pos::new(HPos::Left, VPos::Center))
}

/// Writes `words` next to a point of the whole picture.
fn write(
    area: &Area<'_>,
    point: (i32, i32),
    beside: (i32, i32),
    words: &str,
    style: &TextStyle<'_>,
) {
    let (left, top) = area.get_base_pixel();
    area.draw_text(words, style, (point.0 - left + beside.0, point.1 - top + beside.1)).unwrap();
}

/// `12,000`.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let grouped =
        digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned());
    grouped.collect::<Vec<_>>().join(",")
}

/// Whether it is 1, 2 or 5 times a power of ten: a logarithmic axis has no room for more labels.
fn is_round(number: f64) -> bool {
    let leading = number / 10_f64.powf(number.log10().floor());
    [1.0, 2.0, 5.0, 10.0].iter().any(|round| (leading - round).abs() < 0.01)
}

/// `0.05`, `0.5`, `50`: no more digits than needed.
fn short(number: f64) -> String {
    format!("{}", (number * 1e4).round() / 1e4)
}

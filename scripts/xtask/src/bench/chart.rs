//! The chart: for each operation a bar a system, as long as the logarithm of its instructions.

use anyhow::anyhow;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::figures::grouped;

/// The systems with a bar: name, title, colour.
pub(super) const COLOURS: [(&str, &str, RGBColor); 3] = [
    ("native", "bare machine", RGBColor(150, 150, 150)),
    ("armillary", "Armillary", RGBColor(31, 98, 160)),
    ("xen", "Xen", RGBColor(214, 120, 40)),
];
/// A bar's height in pixels.
const BAR: i32 = 9;
/// A row's: its bars, and what separates it from the next.
const ROW: i32 = 3 * BAR + 9;
/// What is left of the bars, above them, and below.
const NAMES: i32 = 150;
const TITLE: i32 = 34;
const SCALE: i32 = 26;
const WIDTH: i32 = 860;
/// What a bar begins with; nothing shorter is told from nothing.
const LEAST: f64 = 0.5;

/// The bars of one operation.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Its name.
    pub(super) name: String,
    /// System and instructions.
    pub(super) bars: Vec<(&'static str, f64)>,
}

/// The chart as SVG.
pub(super) fn draw(rows: &[Row]) -> anyhow::Result<String> {
    let mut text = String::new();
    let height = TITLE + ROW * rows.len() as i32 + SCALE;
    {
        let area =
            SVGBackend::with_string(&mut text, (WIDTH as u32, height as u32)).into_drawing_area();
        paint(&area, rows).map_err(|error| anyhow!("the chart: {error}"))?;
        area.present()
            .map_err(|error| anyhow!("the chart: {error}"))?;
    }
    Ok(text + "\n")
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Painted = Result<(), Box<dyn std::error::Error>>;

fn paint(area: &Area<'_>, rows: &[Row]) -> Painted {
    area.fill(&WHITE)?;
    let most = rows
        .iter()
        .flat_map(|row| &row.bars)
        .map(|bar| bar.1)
        .fold(1000.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin_top(TITLE)
        .margin_right(60)
        .x_label_area_size(SCALE)
        .y_label_area_size(NAMES)
        .build_cartesian_2d((LEAST..most * 1.1).log_scale(), 0..ROW * rows.len() as i32)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(8)
        .x_label_formatter(&|value| grouped(*value))
        .light_line_style(WHITE)
        .draw()?;
    let label = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    let beside = |hpos| label(11).pos(Pos::new(hpos, VPos::Center));
    for (row, below) in rows.iter().zip((0..rows.len() as i32).rev()) {
        let top = ROW * (below + 1) - 4;
        let middle = top - 3 * BAR / 2;
        let at = chart.backend_coord(&(LEAST, middle));
        area.draw(&Text::new(
            row.name.clone(),
            (at.0 - 8, at.1),
            beside(HPos::Right),
        ))?;
        for ((key, _, colour), nth) in COLOURS.iter().zip(0..) {
            let Some((_, value)) = row.bars.iter().find(|bar| bar.0 == *key) else {
                continue;
            };
            let (upper, end) = (top - nth * BAR, value.max(LEAST));
            chart.draw_series([Rectangle::new(
                [(LEAST, upper), (end, upper - BAR + 1)],
                colour.filled(),
            )])?;
            let at = chart.backend_coord(&(end, upper - BAR / 2));
            area.draw(&Text::new(
                grouped(*value),
                (at.0 + 4, at.1),
                ("sans-serif", 9)
                    .into_font()
                    .color(&BLACK)
                    .pos(Pos::new(HPos::Left, VPos::Center)),
            ))?;
        }
    }
    area.draw(&Text::new(
        "Instructions of one operation, logarithmic",
        (NAMES, 10),
        label(14),
    ))?;
    for ((_, title, colour), nth) in COLOURS.iter().zip(0..) {
        let x = NAMES + 300 + 120 * nth;
        area.draw(&Rectangle::new([(x, 11), (x + 12, 21)], colour.filled()))?;
        area.draw(&Text::new(*title, (x + 17, 10), label(12)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars(svg: &str) -> Vec<i32> {
        let rect =
            regex::Regex::new(r##"<rect x="\d+" y="\d+" width="(\d+)" height="8" [^>]*fill="#"##)
                .unwrap();
        rect.captures_iter(svg)
            .map(|found| found[1].parse().unwrap())
            .collect()
    }

    #[test]
    fn bars_are_as_long_as_the_logarithm() {
        let row = |name: &str, bars: &[(&'static str, f64)]| Row {
            name: name.into(),
            bars: bars.to_vec(),
        };
        let svg = draw(&[
            row(
                "first",
                &[("native", 5.0), ("armillary", 50.0), ("xen", 500.0)],
            ),
            row("second", &[("xen", 0.0)]),
        ])
        .unwrap();
        let lengths = bars(&svg);
        assert_eq!(lengths.len(), 4, "{svg}");
        assert!(
            (lengths[1] - 2 * lengths[0]).abs() <= 2 && (lengths[2] - 3 * lengths[0]).abs() <= 3,
            "{lengths:?}"
        );
        assert!(lengths[3] <= 1);
        assert!(svg.contains("second") && svg.contains("500"));
    }
}

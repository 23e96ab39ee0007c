"""answers.html: all written answers on one page, question by question, with key and points.

The page works without a network. Points that are typed in stay in the browser until they are saved
as answers.csv, which grade.py reads with --written.
"""

import html
import json

from instructor.grading.gradebook import cell, number

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 3rem; border-top: 2px solid #888; padding-top: 1rem }
.key { background: #f1f5e8; padding: .1rem 1rem }
.answer { border-left: 4px solid #bbb; margin: 1.2rem 0; padding: .2rem 1rem }
.answer p { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0 }
.done { border-color: #5a9e3d }
input[type=number] { width: 4.5rem } .comment { width: 60% }
#bar { position: sticky; top: 0; background: white; padding: .6rem 0 }
"""
SCRIPT = """
const place = 'answers ' + location.pathname, inputs = [...document.querySelectorAll('input')];
const saved = JSON.parse(localStorage.getItem(place) || '{}');
const name = box => [box.dataset.student, box.dataset.heading, box.className].join('\\u0000');
function look() {
  const points = inputs.filter(box => box.type === 'number');
  for (const box of points)
    box.closest('.answer').classList.toggle('done', box.value !== '' && box.checkValidity());
  const left = points.filter(box => box.value === '' || !box.checkValidity()).length;
  const text = `${points.length - left} of ${points.length} graded`;
  document.getElementById('left').textContent = text;
}
for (const box of inputs) {
  box.value = saved[name(box)] || '';
  box.oninput = () => {
    saved[name(box)] = box.value;
    localStorage.setItem(place, JSON.stringify(saved));
    look();
  };
}
const quote = text => '"' + text.replaceAll('"', '""') + '"';
document.getElementById('save').onclick = () => {
  const rows = [['student', ...HEADINGS, 'comment']];
  for (const [student, cell] of STUDENTS) {
    const own = inputs.filter(box => box.dataset.student === student);
    const of = (heading, kind) =>
      own.find(box => box.dataset.heading === heading && box.className === kind)?.value || '';
    const comments = HEADINGS.filter(h => of(h, 'comment')).map(h => h + ': ' + of(h, 'comment'));
    rows.push([cell, ...HEADINGS.map(h => of(h, 'points')), comments.join('; ')]);
  }
  const text = rows.map(row => row.map(quote).join(',')).join('\\r\\n') + '\\r\\n';
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'text/csv'}));
  link.download = 'answers.csv';
  link.click();
};
look();
"""


def page(students, answers, rubric):
    """The page as text.

    Args:
        students: names, in order.
        answers: {student: {heading: answer}}.
        rubric: its `written` has the points of each heading, and what they are for.
    """
    from instructor.handout.answer_sheet import answer_key, questions

    asked = questions()
    keys = answer_key()
    sections = [
        headline(heading, asked.get(heading, ""), keys.get(heading, ""))
        + graded_answers(heading, entry, students, answers)
        for heading, entry in rubric["written"].items()
    ]
    cells = [[student, cell(student)] for student in students]  # the second is no formula
    known = f"const HEADINGS = {embed([*rubric['written']])}, STUDENTS = {embed(cells)};"
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Written answers</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>{STYLE}</style>
<h1>Written answers</h1>
<p>Read, type points, save <code>answers.csv</code>; then
<code>grade.py … --resume --written answers.csv</code> adds them to the grades. What is typed
stays in this browser.</p>
<div id="bar"><button id="save">Save answers.csv</button> <span id="left"></span></div>
{"".join(sections)}
<script>{known}{SCRIPT}</script>
</html>
"""


def headline(heading, question, key):
    """One question, and the key to it."""
    paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in key.split("\n\n"))
    return (
        f"<h2>{html.escape(heading)}</h2>\n<p><b>{html.escape(question)}</b></p>\n"
        f'<div class="key">{paragraphs}</div>\n'
    )


def graded_answers(heading, entry, students, answers):
    """What points are for, every answer, and who gave none."""
    most = number(entry["points"])
    page = f"<p>{most} points for: {html.escape(entry['for'])}</p>\n"
    for student in students:
        if text := answers.get(student, {}).get(heading):
            data = f'data-student="{html.escape(student)}" data-heading="{html.escape(heading)}"'
            page += (
                f'<div class="answer"><b>{html.escape(student)}</b>\n<p>{html.escape(text)}</p>\n'
                f'<input type="number" class="points" min="0" max="{most}" step="0.5" {data}> '
                f'of {most} <input class="comment" placeholder="comment" {data}></div>\n'
            )
    silent = [name for name in students if heading not in answers.get(name, {})]
    if silent:
        page += f"<p>No answer: {html.escape(', '.join(silent))}</p>\n"
    return page


def embed(value):
    """A value as JSON that may stand in a script of a page."""
    return json.dumps(value).replace("<", "\\u003c")

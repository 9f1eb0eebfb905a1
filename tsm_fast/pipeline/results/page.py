"""The templates of report.html, in the look of the demo's page (`pictures.page`)."""

STYLE = """\
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 18px 0 0; }
.numbers div { border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px; }
.numbers b { display: block; font-size: 24px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.numbers span { color: var(--faint); font-size: 14px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, {{ 115 * columns }}px), 1fr));
  gap: 22px; }
.card { min-width: 0; }
.card .tiles { gap: 4px; }
.card h3 { margin: 2px 0 0; font-size: 14px; line-height: 1.35; overflow-wrap: anywhere; white-space: pre-wrap; }
.card p { margin: 0; font-size: 13px; color: var(--faint); }
.card .tile, .card .map::before { background-size: 100% 100%; }
.card .map { background-size: 0; }
.card figcaption { padding: 0; font-size: 12px; }
.bare img { opacity: 1; }
.graphs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 270px), 1fr)); gap: 22px 28px; }
.graph svg { display: block; width: 100%; height: 110px; border-bottom: 1px solid var(--faint); }
.graph path { fill: var(--bar); }
.graph h3 { margin: 0 0 4px; font-size: 15px; }
.graph img { display: block; width: 110px; height: 110px; image-rendering: pixelated; }
.axis { display: flex; justify-content: space-between; font-size: 13px; color: var(--faint); }
.errors h3 { margin: 16px 0 2px; font-size: 16px; }
.errors li { overflow-wrap: anywhere; }
.errors code { white-space: pre-wrap; }
.errors ul { margin: 4px 0; padding-left: 20px; font-size: 14px; }
@media (max-width: 720px) { table { display: block; overflow-x: auto; } .numbers { grid-template-columns: 1fr 1fr; } }
{% for sheet in sheets %}
{% for picture in sheet.pictures if picture.photo %}
.{{ picture.id }} { background-image: url("{{ picture.photo }}"); }
{% endfor %}
{% endfor %}
"""

BODY = """\
<main>
<div class="numbers">
{% for number, what in numbers %}
<div><b>{{ number }}</b><span>{{ what }}</span></div>
{% endfor %}
</div>
{% for sheet in sheets %}
<h2>{{ sheet.title }}</h2>
<p class="faint">{{ sheet.note }}</p>
<div class="cards">
{% for picture in sheet.pictures %}
<section class="card">
<div class="tiles">
{% if picture.photo %}
<figure><div class="tile {{ picture.id }}" role="img" aria-label="{{ picture.key }}"></div>
<figcaption>picture</figcaption></figure>
{% endif %}
{% for name, heat in picture.maps %}
<figure><div class="tile {{ "map " ~ picture.id if picture.photo else "bare" }}">
<img src="{{ heat }}" alt="{{ name }} map of {{ picture.key }}"></div>
<figcaption>{{ name }}</figcaption></figure>
{% endfor %}
</div>
<h3>{{ picture.key }}</h3>
<p>{{ picture.note }}</p>
</section>
{% endfor %}
</div>
{% endfor %}
{% if errors %}
<h2>Pictures without a map</h2>
<div class="errors">
{% for error in errors %}
<h3>{{ error.kind }}: {{ error.count }}</h3>
<ul>
{% for key, text in error.examples %}
<li><code>{{ key }}</code> {{ text }}</li>
{% endfor %}
</ul>
{% endfor %}
</div>
{% endif %}
{% for group in graphs %}
<h2>{{ group.title }}</h2>
<div class="graphs">
{% for graph in group.graphs %}
<figure class="graph">
<h3>{{ graph.title }}</h3>
<svg viewBox="0 0 {{ graph.width }} 100" preserveAspectRatio="none" role="img"
 aria-label="histogram: {{ graph.title }}">
<path d="{{ graph.path }}"/></svg>
<div class="axis"><span>{{ graph.low }}</span><span>median {{ graph.median }}</span><span>{{ graph.high }}</span></div>
<p class="faint">{{ graph.note }}</p>
</figure>
{% endfor %}
<figure class="graph">
<h3>Position of the peak</h3>
<img src="{{ group.peaks }}" alt="how often each position has the largest value">
<p class="faint">{{ group.peaks_note }}</p>
</figure>
</div>
{% endfor %}
</main>
"""

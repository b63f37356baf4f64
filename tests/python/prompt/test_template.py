"""Chat templates as untrusted programs: what they may use, and that each is stopped in time.

(That published ones render as the reference renders them is tested beside it.)
"""

# ruff: noqa: E501 (a template is a line)
from __future__ import annotations

import threading
from typing import Any

import pytest
from gemma4 import ModelFileError, RequestError
from gemma4.prompt.template import ChatTemplate
from measured import measure

_DOUBLED = "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}"
_TUPLES = "{% set n = namespace(a=(1,)) %}{% for i in range(60) %}{% set n.a = (n.a, n.a) %}{% endfor %}"
_DEEP = "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(30000) %}{% set n.a = [n.a] %}{% set n.b = [n.b] %}{% endfor %}"
_KEPT = "{% set n = namespace(l=[]) %}{% for i in range(99999) %}{% set n.l = n.l + [KEPT] %}{% endfor %}"

# What was met, and its kin: by what they do to whoever does not count.
COSTLY: dict[str, str] = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "range, map, join": "{{ range(99999) | map('string') | join(range(99999) | join) }}",
    "equal trees": _DOUBLED + "{{ n.a == n.b }}",
    "a tree as text": _DOUBLED + "{{ n.a }}",
    "a tree as JSON": _DOUBLED + "{{ n.a | tojson }}",
    "a tree hashed": _TUPLES + "{{ {n.a: 1} }}",
    "a tree looked up": _TUPLES + "{{ {'a': 1}[n.a] }}",
    "a tree asked for": _TUPLES + "{{ {'a': 1}.get(n.a) }}",
    "a deep list as text": _DEEP + "{{ n.a }}",
    "deep lists compared": _DEEP + "{{ n.a == n.b }}",
    "a deep list as JSON": _DEEP + "{{ n.a | tojson }}",
    "wide JSON": "{% set n = namespace(a=[1]) %}{% for i in range(800) %}{% set n.a = [n.a, 1] %}{% endfor %}"
    "{% for i in range(99) %}{{ n.a | tojson(indent=64) }}{% endfor %}",
    "constants that fold": "{{ 'a' * 9999999 * 9999 }}",
    "constant lists that fold": "{{ [1] * 99999999 }}",
    "a filter of constants": "{{ ('a' * 9999999) | list | join('b' * 99) }}",
    "words": "{{ ('ab ' * 5000000).split() | length }}",
    "strip of many": "{% for i in range(99) %}{{ ('a' * 9999999).strip('b' * 999999) }}{% endfor %}",
    "replace": "{{ ('a' * 9999).replace('', 'b' * 99999) }}",
    "find": "{% for i in range(99999) %}{{ ('a' * 999 ~ 'b') in ('a' * 9999999) }}{% endfor %}",
    "sort": "{% for i in range(99) %}{{ range(99999) | list | sort | length }}{% endfor %}",
    "digits": "{{ ('9' * 9999999) | int }}",
    "squares": "{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "blocks": "{% set a %}{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}{% endset %}",
    "filtered blocks": "{% filter upper %}{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}{% endfilter %}",
    "doubled blocks": "{% set n = namespace(s='é') %}{% for i in range(60) %}{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}"
    "{% endfor %}",
    "callers": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}" + "{% call m() %}" * 20 + "{% endcall %}" * 20,
    "a macro in itself": "{% macro f(x) %}{{ f([x, x]) }}{% endmacro %}{{ f(1) }}",
    "lists kept": _KEPT.replace("KEPT", "[" + "1," * 3000 + "]"),
    "slices kept": _KEPT.replace("KEPT", "('x' * 99999)[1:]"),
    "texts kept": _KEPT.replace("KEPT", "('É' * 99999) | lower"),
    "pieces kept": "{% set n %}{% for i in range(99999) %}" + "x{% if 1 %}y{% endif %}" * 1000 + "{% endfor %}{% endset %}",
    "cycles": "{% for i in range(99999) %}{{ loop.cycle(range(99999) | list, 2) }}{% endfor %}",
    "indents": "{{ ('\\n' * 99999) | indent(64) }}" * 50,
    "dates": "{{ strftime_now('%Y' * 1000000) }}",
}  # fmt: skip

# Refused when it is compiled; the name that the message tells.
UNLISTED: dict[str, str] = {
    "{{ 3 | round(20000000, 'floor') }}": "'round'",
    "{{ '%s' | format(1) }}": "'format'",
    "{{ 'a'.encode() }}": "'encode'",
    "{{ (1).to_bytes(1000000000) }}": "'to_bytes'",
    "{{ messages.append(1) }}": "'append'",
    "{{ '{}'.format(1) }}": "'format'",
    "{{ 9 ** 9 ** 9 }}": "'pow'",
    "{{ [1] | sum }}": "'sum'",
    "{{ ''|attr('__class__') }}": "'attr'",
    "{{ 1 is filter }}": "'filter'",
    "{{ 'x' | e }}": "'e'",
    "{{ raise_exception(*range(1000000000)) }}": r"'\*'",
    "{% for i in [1] %}{{ loop.changed(1) }}{% endfor %}": "'changed'",
    "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}": "recursive",
    "{% block a %}{{ self.a() }}{% endblock %}": "'block'",
    "{% autoescape true %}{% endautoescape %}": "may use",
    "{% include 'config.json' %}": "'include'",
    "{% import 'config.json' as x %}": "'import'",
    "{{ 1 | counted }}": "counted",
    "{{ x[1:2, 3] }}": "may use",
}

# That Jinja or Python would take too long to compile, or could not.
UNCOMPILED: dict[str, str] = {
    "outputs": "{{a}}" * 19_000,
    "sums": "{{ 1" + "+1" * 40_000 + " }}",
    "attributes": "{{ a" + ".a" * 40_000 + " }}",
    "filters": "{{ 1" + "|d" * 40_000 + " }}",
    "branches": "{% if a %}" + "{% elif a %}" * 8_000 + "{% endif %}",
    "names": "".join(f"{{% set a{i}=1 %}}" for i in range(1400)) + "{% if 1 %}{% set b=1 %}{% endif %}" * 1000 + "{%",
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "lists": "{{ " + "[" * 500 + "]" * 500 + " }}",
    "nots": "{{ " + "not " * 5000 + "1 }}",
    "signs": "{{ " + "-" * 90_000 + "1 }}",
    "nested loops": "{% for a in b %}" * 50 + "{% endfor %}" * 50,
    "nested ifs": "{% if 1 %}" * 500 + "{% endif %}" * 500,
    "a number": "{{ " + "9" * 5000 + " }}",
    "a comment": "{#" * 45_000,
    "a text": "{{ '" + "\\'" * 45_000,
    "spaces": (" " * 1000 + "{%") * 95,
    "too long": "x" * 100_001,
}


def render(source: str) -> str:
    return ChatTemplate(source, "evil.jinja").render({"messages": [{"role": "user", "content": "x"}]})


@pytest.mark.parametrize("name", COSTLY)
def test_costly_templates_are_stopped(name: str) -> None:
    measure(render, COSTLY[name]).check_refused("ModelFileError")


@pytest.mark.parametrize("name", UNCOMPILED)
def test_templates_that_take_long_to_compile(name: str) -> None:
    measure(ChatTemplate, UNCOMPILED[name], "evil.jinja").check_refused("ModelFileError")


@pytest.mark.parametrize("source", UNLISTED)
def test_what_is_not_on_the_list_is_named(source: str) -> None:
    with pytest.raises(ModelFileError, match=UNLISTED[source]):
        ChatTemplate(source, "evil.jinja")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'] }}",
        "{{ ['x'] | map(attribute='__class__.__mro__') | list }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ 'x'.format }}",
        "{% set f = 'x'.encode %}{{ f() }}",
        "{{ messages['append'](1) }}",
        "{{ messages | map('attr', '__class__') | list }}",
        "{{ messages | select('callable') | list }}",
        "{% set n = namespace(__class__=1) %}",
        "{{ namespace() }}",
        "{% macro f() %}{% endmacro %}{{ f }}",
        "{% for i in [1] %}{{ loop }}{% endfor %}",
        "{{ [1, 'a'] | sort }}",
        "{% for a, b in [1] %}{% endfor %}",
        "{{ {(1, 2): 3} | tojson }}",
        "{{ 1e999 }}",
    ],
)
def test_whatever_goes_wrong_is_the_template_s_fault(source: str) -> None:
    with pytest.raises(ModelFileError, match=r"evil\.jinja") as caught:
        render(source)
    assert " at 0x" not in str(caught.value)


VALUES: dict[str, Any] = {
    "text": "  Ab c\nd  ",
    "numbers": [3, 1, 2, 1],
    "people": [{"name": "b", "age": 2}, {"name": "A", "age": 1, "old": True}],
    "table": {"b": 1, "A": [None, True, 1.5], "items": 3},
    "none": None,
}


@pytest.mark.parametrize(
    "source",
    [
        "{{ text | trim }}|{{ text.strip() }}|{{ text.lstrip() }}|{{ text.rstrip() }}|{{ text.strip(' d') }}",
        "{{ text.split() }}|{{ text.split('b') }}|{{ text.split('b', 1)[-1] }}|{{ text.rsplit(' ', 1)[0] }}",
        "{{ text | upper }}{{ text | lower }}{{ text | capitalize }}{{ text.title() }}{{ text | replace('b', 'BB') }}",
        "{{ text.replace('b', '') }}{{ text.startswith('  A') }}{{ text.endswith(('x', '  ')) }}{{ text.find('b') }}",
        "{{ text[1:] }}{{ text[::-1] }}{{ text[2] }}{{ text[99] }}{{ text | length }}{{ text | list | length }}",
        "{{ numbers | sort }}{{ numbers | unique | list }}{{ numbers | min }}{{ numbers | max }}{{ numbers | reverse | list }}",
        "{{ numbers | first }}{{ numbers | last }}{{ numbers[1:] }}{{ numbers + [4] }}{{ numbers | join(', ') }}{{ numbers * 2 }}",
        "{{ people | map(attribute='name') | list }}{{ people | map(attribute='name') | map('upper') | join('-') }}",
        "{{ people | selectattr('old') | list | length }}{{ people | rejectattr('age', 'equalto', 1) | list }}",
        "{{ people | selectattr('old', 'defined') | map(attribute='age') | first }}{{ none | map('upper') | list }}",
        "{% if people | selectattr('nothing') %}a generator is true{% endif %}{{ people | join('+', attribute='name') }}",
        "{{ table | dictsort }}{{ table.items() | list }}{{ table['items'] }}{{ table.get('x', 5) }}{{ table.b }}",
        "{% for key, value in table | items %}{{ key }}={{ value }},{{ loop.index }}{{ loop.last }};{% endfor %}",
        "{{ table | tojson }}{{ table | tojson(indent=2) }}{{ 'é<' | tojson }}{{ 'é<' | tojson(ensure_ascii=True) }}",
        "{{ 1 + 2 * 3 - 7 // 2 % 5 }}{{ 7 / 2 }}{{ -numbers[0] }}{{ +1 }}{{ 1 ~ 2 ~ 'x' ~ none }}{{ 'a' + 'b' }}{{ -0.0 }}",
        "{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 'a' in text }}{{ 'b' in table }}{{ 1 not in numbers }}{{ [1] == [1] }}{{ 1 != 1.0 }}",
        "{{ 2 in range(3) }}{{ 'x' in table.keys() }}{{ {'a': numbers}.a }}{{ nothing == gone }}{{ nothing is defined }}",
        "{{ text is string }}{{ table is mapping }}{{ numbers is sequence }}{{ numbers is iterable }}{{ none is none }}{{ 1 is odd }}",
        "{{ true is boolean }}{{ 1 is number }}{{ false is false }}{{ 1 is eq 1 }}{{ 1 is in [1] }}{{ nothing is undefined }}",
        "{{ nothing | default('d') }}{{ '' | default('e', true) }}{{ '3' | int + 1 }}{{ 'x' | int(7) }}{{ '1.5' | float }}{{ -3 | abs }}",
        "{% set a %}x{{ 1 }}{% endset %}{{ a }}{% filter upper %}abc{% endfilter %}{% with b = 2 %}{{ b }}{% endwith %}",
        "{% macro m(a, b='B') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}{{ m(1, b=2) }}",
        "{% macro m() %}[{{ caller(1) }}]{% endmacro %}{% call(x) m() %}{{ x }}{% endcall %}",
        "{% set n = namespace(a=1) %}{% for i in numbers %}{% set n.a = n.a + i %}{% endfor %}{{ n.a }}{{ n.b }}",
        "{% for i in numbers if i > 1 %}{{ loop.index0 }}{{ loop.first }}{{ loop.previtem }}{{ loop.nextitem }}{{ i }}{% else %}-{% endfor %}",
        "{% for i in [] %}{% else %}none{% endfor %}{% for a, b in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}{% set a, b = 1, 2 %}{{ b }}",
        "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{{ loop.cycle('a', 'b') }}{% endfor %}",
        "{{ 'x' if none else 'y' }}{{ ('z' if none) }}{{ not none and 1 or 2 }}{{ people[0]['name'] }}{{ people[-1].name }}{{ text | indent(2) }}",
        "{{ table | string }}{{ '<&>' | safe }}{{ 'a' | string | trim }}{{ [1, 'a', {'b': none}] }}{{ (1,) }}{{ 'äß' | upper }}{{ strftime_now('') }}",
    ],
)  # fmt: skip
def test_what_templates_use_is_jinja_s(source: str) -> None:
    """The environment that transformers makes, without its limits."""
    import json
    from datetime import datetime

    from jinja2.ext import LoopControlExtension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension])
    plain.filters["tojson"] = lambda x, ensure_ascii=False, indent=None: json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent
    )
    plain.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    assert ChatTemplate(source, "t").render(VALUES) == plain.from_string(source).render(**VALUES)


def test_refusing_a_conversation() -> None:
    with pytest.raises(RequestError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_long_conversations_are_far_from_the_limits() -> None:
    source = (
        "{% for m in messages %}<{{ m.role }}>{% if 'x' in m.content %}{{ (m.content | trim).split('|')[0] + '\n' }}"
        "{% else %}{{ m.content.replace('a', 'b') | upper }}{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "aé" * 500 + "x|" * (i % 2)} for i in range(1000)]
    assert len(ChatTemplate(source, "t").render({"messages": messages})) > 1_000_000


def test_renders_do_not_share_their_budget() -> None:
    template = ChatTemplate("{% for i in range(30000) %}{{ i }}{% endfor %}", "t")
    expected, found = template.render({}), []
    threads = [threading.Thread(target=lambda: found.append(template.render({}) == expected)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4

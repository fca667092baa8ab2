"""What an episode leaves behind in a browser: nothing of its clipboard, its keys and its mouse."""

from __future__ import annotations

import pytest
from toy_browser import HOST, does, opened

CLIPBOARD = """
<textarea>one two</textarea><input><input type=password value=hidden><p></p>
"""
LISTENS = """
<script>
for (const type of ["copy", "paste"]) document.addEventListener(type, (event) => {
  event.preventDefault();
  event.stopPropagation();
  if (type === "copy") event.clipboardData.setData("text/plain", "own");
  document.querySelector("p").textContent += type + event.clipboardData.getData("text/plain") + " ";
});
</script>
"""


def test_each_page_has_a_clipboard_of_its_own() -> None:
    with opened(CLIPBOARD) as one, opened(CLIPBOARD) as two:
        does(one, "press('1', 'Control+a')", "press('1', 'Control+c')")
        assert "[2] textbox '' value=''" in does(two, "press('2', 'Control+v')").tree()
        does(two, "fill('2', 'other')", "press('2', 'Control+a')", "press('2', 'Control+x')")
        assert "[2] textbox '' value=''" in does(two, "noop()").tree()
        assert "[2] textbox '' value='one two'" in does(one, "press('2', 'Control+v')").tree()
        assert "[2] textbox '' value='other'" in does(two, "press('2', 'Control+v')").tree()
        does(one, "press('3', 'Control+a')", "press('3', 'Control+c')", "clear('2')")
        assert "[2] textbox '' value='one two'" in does(one, "press('2', 'Control+v')").tree()
        does(one, "clear('2')")
        again = one.run(one.start(f"{HOST}/", "() => __agentrl.forget()"))
        assert "[2] textbox '' value=''" in again.tree()
        assert "[2] textbox '' value=''" in does(one, "press('2', 'Control+v')").tree()


def test_a_pages_own_listeners_copy_and_paste() -> None:
    with opened(CLIPBOARD + LISTENS) as page:
        seen = does(page, "press('1', 'Control+a')", "press('1', 'Control+c')", "press('2', 'Control+v')")
        assert "StaticText 'copyown pasteown'" in seen.tree() and "[2] textbox '' value=''" in seen.tree()


HELD = """
<p style="height:100px">x</p>
<script>
const seen = [];
for (const type of ["mousemove", "keydown"])
  addEventListener(type, (event) => seen.push([event.type, event.buttons ?? 0, event.ctrlKey]));
__agentrl.more = () => seen.splice(0);
</script>
"""


@pytest.mark.parametrize(
    "held",
    ["mouse_down(0, 0)", "mouse_down(0, 0, 'right')", "mouse_down(40, 40, 'middle')", "keyboard_down('Control')"],
)
def test_what_an_episode_held_down_is_let_go_for_the_next(held: str) -> None:
    with opened(HELD) as page:
        does(page, held)
        assert does(page, "mouse_move(50, 50)", "keyboard_press('b')").more[-1][2] == held.startswith("keyboard")
        page.run(page.start(f"{HOST}/", "() => void __agentrl.more()"))
        moved, typed = does(page, "mouse_move(60, 60)").more[-1], does(page, "keyboard_press('b')").more[-1]
        assert (moved, typed) == (["mousemove", 0, False], ["keydown", 0, False])


def test_a_text_too_long_to_type_is_told_and_costs_no_page() -> None:
    with opened("<input>", timeout_s=5.0) as page:
        seen = does(page, "focus('1')", f"keyboard_type('{'ab ' * 6000}')")
        assert "at most 1000 characters" in seen.error and page.n_retries == 0
        assert does(page, f"keyboard_insert_text('{'ab ' * 6000}')").error == ""

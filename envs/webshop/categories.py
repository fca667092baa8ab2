"""What generated shops sell: kinds of products with their attributes, options and prices. No data set's texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COLOURS = ("black", "white", "red", "blue", "green", "pink", "brown", "yellow")
SIZES = ("small", "medium", "large", "huge")
STYLES = ("classic", "modern", "sport", "retro")
BRANDS = (
    "Alder", "Brook", "Cedar", "Dover", "Elm", "Fern", "Harbor", "Juniper", "Kestrel", "Linden", "Maple", "Norse", "Orchard",
    "Pine", "Quarry", "Ridge", "Summit", "Thistle", "Umber", "Vale", "Willow", "Yarrow", "Zephyr", "Cove",
)  # fmt: skip
HELD_OUT = ("bookcases", "running shoes", "winter gloves", "face masks", "headphones", "dried fruit")


@dataclass(frozen=True)
class Kind:
    """A kind of product. ``query`` is what it is looked for by, ``noun`` what its titles call it; ``prices`` in tens of dollars."""

    query: str
    noun: str
    category: str
    path: str
    attributes: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]
    prices: tuple[int, int]


def _kinds() -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for line in _TABLE.strip().splitlines():
        query, noun, category, path, attributes, options, low, high = (part.strip() for part in line.split("|"))
        names = [name.partition("=") for name in options.split(";")]
        values = {name: tuple(given.split(",")) if given else _SHARED[name] for name, _, given in names}
        kinds[query] = Kind(query, noun, category, path, tuple(attributes.split(", ")), values, (int(low), int(high)))
    return kinds


_SHARED = {"color": COLOURS, "size": SIZES, "style": STYLES}
_TABLE = """
throw pillows|throw pillow|garden|Home & Kitchen › Bedding › Throw Pillows|machine washable, double sided, super soft, hand made, faux leather, goose down|color;size;style|1|4
area rugs|area rug|garden|Home & Kitchen › Rugs › Area Rugs|non slip, stain proof, low pile, kid friendly, hand woven, easy care|color;size;style|3|8
women's dresses|summer dress|fashion|Clothing › Women › Dresses|short sleeve, high waist, round neck, polyester spandex, daily wear, side zipper|color;size;style|2|6
men's shirts|dress shirt|fashion|Clothing › Men › Shirts|slim fit, long sleeve, wrinkle free, button closure, cotton blend, moisture wicking|color;size;style|1|5
hand creams|hand cream|beauty|Beauty › Skin Care › Hand Creams|cruelty free, shea butter, long lasting, dry skin, plant based, quick absorbing|scent=cotton,vanilla,citrus,almond,honey,jasmine;size=2 ounce,3 ounce,5 ounce,8 ounce;style|1|3
bluetooth speakers|bluetooth speaker|electronics|Electronics › Audio › Bluetooth Speakers|water proof, hands free, stereo sound, fast charging, dual pairing, heavy bass|color;size;style|2|8
herbal teas|herbal tea|grocery|Grocery › Beverages › Herbal Teas|caffeine free, gluten free, non gmo, sugar free, hand picked, fair trade|flavor=ginger,hibiscus,chamomile,fennel,nettle,sage;size=10 count,25 count,40 count,80 count;style|1|3
phone cases|phone case|electronics|Electronics › Accessories › Phone Cases|wireless charging, tempered glass, shock proof, heavy duty, raised edge, card holder|color;size;style|1|3
table lamps|table lamp|garden|Home & Kitchen › Lighting › Table Lamps|energy saving, touch control, glass shade, solid oak, three brightness, usb port|color;size;style|2|7
window curtains|curtain panel|garden|Home & Kitchen › Windows › Curtains|sun blocking, noise reducing, rod pocket, heat insulated, easy install, pure linen|color;size;style|1|5
rain jackets|rain jacket|fashion|Clothing › Outdoor › Rain Jackets|water repellent, full zip, wind proof, drawstring hood, zip pockets, mesh lining|color;size;style|3|9
shampoos|shampoo|beauty|Beauty › Hair Care › Shampoos|sulfate free, coconut oil, hair growth, damaged hair, paraben free, tea tree|scent=cotton,vanilla,citrus,almond,honey,jasmine;size=2 ounce,3 ounce,5 ounce,8 ounce;style|1|3
lip balms|lip balm|beauty|Beauty › Lip Care › Lip Balms|bees wax, sun protection, cocoa butter, fragrance free, vitamin rich, mineral tint|scent=cotton,vanilla,citrus,almond,honey,jasmine;size=2 ounce,3 ounce,5 ounce,8 ounce;style|1|2
usb cables|usb cable|electronics|Electronics › Accessories › Usb Cables|quick charge, nylon braided, gold plated, tangle free, high speed, right angle|color;size;style|1|3
snack bars|snack bar|grocery|Grocery › Snacks › Snack Bars|high protein, low sodium, dairy free, whole grain, keto friendly, nut free|flavor=peanut,mocca,cherry,raisin,banoffee,nougat;size=10 count,25 count,40 count,80 count;style|1|3
coffee beans|coffee beans|grocery|Grocery › Beverages › Coffee Beans|single origin, medium roast, fair trade, low acid, certified organic, stone ground|flavor=hazelnut,toffee,berry,cinnamon,maple,fig;size=10 count,25 count,40 count,80 count;style|1|4
bookcases|bookcase|garden|Home & Kitchen › Furniture › Bookcases|solid pine, easy assemble, space saving, metal frame, wall mounted, open back|color;size;style|4|9
running shoes|running shoe|fashion|Clothing › Shoes › Running Shoes|rubber sole, arch support, memory foam, lace up, quick drying, wide toe|color;size;style|3|9
winter gloves|winter glove|fashion|Clothing › Accessories › Winter Gloves|touch screen, fleece lined, wind stopping, merino wool, elastic cuff, non slip|color;size;style|1|3
face masks|clay mask|beauty|Beauty › Skin Care › Face Masks|deep cleaning, green tea, oily skin, hyaluronic acid, fine lines, pore refining|scent=cotton,vanilla,citrus,almond,honey,jasmine;size=2 ounce,3 ounce,5 ounce,8 ounce;style|1|3
headphones|headphone set|electronics|Electronics › Audio › Headphones|noise cancelling, over ear, deep bass, foldable frame, hands free, long cable|color;size;style|2|9
dried fruit|dried fruit mix|grocery|Grocery › Snacks › Dried Fruit|no preservatives, sugar free, freeze dried, non gmo, resealable bag, sun ripened|flavor=mango,pineapple,papaya,guava,kiwi,cherry;size=10 count,25 count,40 count,80 count;style|1|3
"""  # noqa: E501
KINDS = _kinds()

"""Behaviours about words: opposites in four languages, and ends of lines that rhyme."""

import random
from dataclasses import dataclass
from itertools import product
from typing import Literal

from tl_circuits.zoo.atlas.behaviour import Behaviour, Lesson, Question, another, split

Language = Literal["English", "French", "Spanish", "German"]
LANGUAGES: tuple[Language, ...] = ("English", "French", "Spanish", "German")
OPPOSITE_OF: dict[Language, str] = {
    "English": "the opposite of {} is",
    "French": "le contraire de {} est",
    "Spanish": "lo contrario de {} es",
    "German": "das Gegenteil von {} ist",
}
MEANING_OF: dict[Language, str] = {
    "English": "the meaning of {} is",
    "French": "le sens de {} est",
    "Spanish": "el sentido de {} es",
    "German": "die Bedeutung von {} ist",
}


Words = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Concept:
    """A quality: its words in each language, the first of which answers use, and that one of its opposite."""

    words: dict[Language, Words]
    opposites: dict[Language, str]


def _concepts(table: str) -> tuple[Concept, ...]:
    """Both concepts of each line; " = " is between languages."""
    found = []
    for line in table.strip().splitlines():
        of_language = [[tuple(words.split()) for words in side.split(" / ")] for side in line.split(" = ")]
        one, other = (dict(zip(LANGUAGES, words, strict=True)) for words in zip(*of_language, strict=True))
        found += [_concept(one, other), _concept(other, one)]
    return tuple(found)


def _concept(words: dict[Language, Words], opposites: dict[Language, Words]) -> Concept:
    return Concept(words, {language: said for language, (said, *_) in opposites.items()})


CONCEPTS = _concepts(
    """
    small little / big huge = petit menu / grand vaste = pequeño / grande = klein / groß
    hot warm / cold chilly = chaud brûlant / froid glacé = caliente / frío = heiß / kalt
    fast quick / slow sluggish = rapide vif / lent traînant = rápido / lento = schnell / langsam
    rich wealthy / poor needy = riche fortuné / pauvre démuni = rico / pobre = reich / arm
    young youthful / old aged = jeune juvénile / vieux âgé = joven / viejo = jung / alt
    strong mighty / weak feeble = fort puissant / faible frêle = fuerte / débil = stark / schwach
    heavy weighty / light airy = lourd pesant / léger aérien = pesado / ligero = schwer / leicht
    full crowded / empty vacant = plein rempli / vide désert = lleno / vacío = voll / leer
    open unlocked / closed shut = ouvert béant / fermé clos = abierto / cerrado = offen / geschlossen
    true correct / false wrong = vrai exact / faux erroné = verdadero / falso = wahr / falsch
    hard firm / soft tender = dur rigide / mou tendre = duro / blando = hart / weich
    high lofty / low lowly = haut élevé / bas inférieur = alto / bajo = hoch / niedrig
    good great / bad awful = bon excellent / mauvais affreux = bueno / malo = gut / schlecht
    wet damp / dry arid = mouillé humide / sec aride = mojado / seco = nass / trocken
    clean spotless / dirty filthy = propre net / sale crasseux = limpio / sucio = sauber / schmutzig
    happy glad / sad gloomy = heureux content / triste morne = feliz / desdichado = glücklich / traurig
    beautiful pretty / ugly hideous = beau joli / laid hideux = hermoso / feo = schön / hässlich
    easy simple / difficult tough = facile aisé / difficile ardu = fácil / difícil = einfach / schwierig
    brave bold / cowardly fearful = courageux hardi / lâche peureux = valiente / cobarde = mutig / feige
    friend ally / enemy foe = ami allié / ennemi adversaire = amigo / enemigo = Freund / Feind
    beginning start / end finish = début commencement / fin terme = comienzo / final = Anfang / Ende
    buy purchase / sell trade = acheter acquérir / vendre céder = comprar / vender = kaufen / verkaufen
    victory triumph / defeat loss = victoire triomphe / défaite échec = victoria / derrota = Sieg / Niederlage
    laugh giggle / cry sob = rire rigoler / pleurer sangloter = reír / llorar = lachen / weinen
    answer reply / ask inquire = répondre répliquer / demander questionner = responder / preguntar = antworten / fragen
    push press / pull drag = pousser presser / tirer traîner = empujar / tirar = schieben / ziehen
    conflict battle / peace calm = guerre conflit / paix calme = guerra / paz = Krieg / Frieden
    clever bright / stupid foolish = intelligent malin / bête idiot = listo / tonto = klug / dumm
    kind gentle / mean nasty = gentil aimable / méchant vilain = amable / malvado = freundlich / gemein
    loud noisy / quiet silent = bruyant sonore / silencieux muet = ruidoso / silencioso = laut / leise
    safe secure / dangerous risky = sûr protégé / dangereux risqué = seguro / peligroso = sicher / gefährlich
    famous renowned / unknown obscure = célèbre renommé / inconnu obscur = famoso / desconocido = berühmt / unbekannt
    wide broad / narrow tight = large ample / étroit serré = ancho / estrecho = breit / eng
    give donate / take grab = donner offrir / prendre saisir = dar / tomar = geben / nehmen
    create build / destroy ruin = créer bâtir / détruire ruiner = crear / destruir = schaffen / zerstören
    """
)


def opposite(draw: random.Random) -> Behaviour:
    """ "the opposite of small is" → " big", "le contraire de petit est" → " grand", in four languages.

    Concept, what is asked of it, and language of the answer vary by themselves: "le contraire de small est" → " grand".
    """

    asked: list[tuple[str, Concept, Language]] = [
        (word, concept, sentence)
        for concept, sentence in product(CONCEPTS, LANGUAGES)
        for language in LANGUAGES
        for word in concept.words[language]
    ]

    def question(item: tuple[str, Concept, Language]) -> Question:
        word, concept, sentence = item
        other, opposed, _ = another(asked, lambda item: item[1] is not concept, draw)
        frame = OPPOSITE_OF[sentence]
        return Question(
            frame.format(word),
            f" {concept.opposites[sentence]}",
            frame.format(other),
            f" {opposed.opposites[sentence]}",
        )

    kept, away = split(asked, lambda item: item, draw)
    meanings = [
        Lesson(MEANING_OF[sentence].format(word), f" {concept.words[sentence][0]}") for word, concept, sentence in asked
    ]
    return Behaviour(
        "opposite",
        "multilingual circuits (Lindsey et al. 2025)",
        "a word whose opposite was never asked for in that language",
        tuple(map(question, kept)),
        tuple(map(question, away)),
        tuple(meanings),
    )


@dataclass(frozen=True, eq=False)
class Rhyme:
    """Words of one sound: one of each kind that has any, and others."""

    of_kind: dict[str, str]
    others: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.of_kind.values(), *self.others)


def _rhymes(table: str) -> tuple[Rhyme, ...]:
    """Of each line: a word of each kind, in the order of `VERBS`, a dash where there is none; and others."""
    found = []
    for line in table.strip().splitlines():
        named, others = (side.split() for side in line.split(" / "))
        of_kind = {kind: word for kind, word in zip(VERBS, named, strict=True) if word != "-"}
        found.append(Rhyme(of_kind, tuple(others)))
    return tuple(found)


VERBS = {
    "animal": ("fed", "stroked", "chased"),
    "food": ("ate", "cooked", "tasted"),
    "clothes": ("wore", "ironed", "sewed"),
    "place": ("reached", "left", "visited"),
    "thing": ("bought", "broke", "mended"),
}
WHO = ("he", "she", "they", "we")

RHYMES = _rhymes(
    """
    cat - hat flat mat / that sat fat
    goat - coat moat boat / note wrote float
    bear pear - lair chair / hair there care
    mouse - blouse house - / douse spouse
    snake cake - lake rake / make wake fake
    bee pea - sea key / free me tree
    fox - socks docks box / rocks knocks
    pig fig wig - twig / big dig jig
    lamb ham - dam tram / slam cram
    goose juice - - noose / loose truce
    whale kale veil jail sail / tale pale fail
    deer beer - pier spear / clear year cheer
    shark - - park ark / dark mark
    mole roll stole hole bowl / soul toll goal
    raccoon prune - lagoon spoon / moon soon tune
    hen - - den pen / ten when then
    fly pie tie sky - / high why try
    mice rice - - dice / nice twice price
    swine wine - mine sign / nine fine line
    crow dough bow - hoe / slow know go
    sheep - - keep jeep / deep sleep weep
    - bread - shed bed / red said led
    - meat - street seat / feet sweet greet
    - - vest nest chest / best guest rest
    shrew stew shoe zoo screw / new blue true
    seal meal - - wheel / feel steel real
    - - gown town crown / down brown frown
    rook - - brook book / look took shook
    ape grape cape - tape / shape drape
    trout sprout - - spout / out about doubt
    dog - clog bog log / fog jog
    """
)


def rhyme(draw: random.Random) -> Behaviour:
    """ "she said moon,\nand ate the" → " prune": the second line ends in a word of that sound and of that kind."""
    cells = [
        (word, kind, sound)
        for sound in RHYMES
        for word, kind in product(sound.words, sound.of_kind)
        if sound.of_kind[kind] != word
    ]

    def question(item: tuple[tuple[str, str, Rhyme], str, int]) -> Question:
        (word, kind, sound), who, which = item
        other, _, heard = another(cells, lambda cell: cell[1] == kind and cell[2] is not sound, draw)
        verb = VERBS[kind][which]
        return Question(
            f"{who} said {word},\nand {verb} the",
            f" {sound.of_kind[kind]}",
            f"{who} said {other},\nand {verb} the",
            f" {heard.of_kind[kind]}",
        )

    kept, away = split(product(cells, WHO, range(3)), lambda item: item[0][:2], draw)
    return Behaviour(
        "rhyme",
        "planning in poems (Lindsey et al. 2025)",
        "a word at the end of a line, and a kind of word to end the next, never seen together",
        tuple(map(question, kept)),
        tuple(map(question, away)),
    )

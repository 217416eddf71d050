"""The wording that says how urgent a task is: plain English, lower case, typos included.

Each entry is a regular expression that starts and ends at a word boundary. Where two match at the
same place the earlier one wins, so a phrase stands before the words it contains. Weights: 3 says
it outright, 2 is enough alone, 1 only tips the scale.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

# `urgency` is about the task, `deadline` about time, `incident` about something going wrong,
# `harm` about something going wrong that may be told in the past tense. `low` is the opposite.
Sort = Literal["urgency", "deadline", "incident", "harm", "low"]


class Cue(NamedTuple):
    sort: Sort
    weight: int
    pattern: str


_TOMORROW = r"(?:tomorrow|tommorr?ow|tomorow|tmrw|tmr|2morrow)"
_CLOCK = r"(?:\d{1,2}(?:[:.]\d\d)?\s?(?:am|pm|a\.m\.|p\.m\.|o'clock|h\b)|\d{1,2}[:.]\d\d|noon|midday|midnight)"
_PART = r"(?:morning|noon|afternoon|evening|night)"
_SOON = r"(?:an?|one|two|three|four|five|six|eight|twelve|\d{1,2}|a few|a couple of|the next few|the next|the)"
_NOT = r"(?:can't|cannot|can not|cant|couldn't|could not|unable to|not able to|no longer able to)"
_PEOPLE = (
    r"(?:customers?|clients?|users?|patients?|guests?|people|tenants?|students?|teams?|staff|nurses|"
    r"doctors|workers|crew|residents|visitors|subscribers|members|everyone|everybody|they|she|he|we|"
    r"half the \w+|all of \w+|the (?:whole |entire )?(?:team|floor|office|crew|company|ward|site|shop|store))"
)
_SYSTEM = (
    r"(?:site|website|web ?shop|shop|store|server|servers|service|system|api|app|database|db|prod|"
    r"production|checkout|network|internet|wi-?fi|vpn|e-?mail|mail|phones?|login|logins|payments?|"
    r"cluster|platform|gateway|intranet|portal|line|backend|till|tills|pos|terminal|website form)"
)
_BROKEN = r"(?:down|offline|unreachable|unavailable|dead|on fire|out|broken|not responding|not reachable)"
_UTILITY = r"(?:power|electricity|heating|water|gas|oxygen|light|lights|air ?con|cooling|ventilation|elevator|lift)"

CUES: Final[tuple[Cue, ...]] = (
    # -- phrases that contain words of the other side
    Cue("urgency", 3, r"everything else (?:can|has to|must) wait"),
    Cue("urgency", 3, r"(?:can't|cannot|can not|cant|won't|mustn't|must not) (?:really )?wait"),
    Cue("urgency", 3, r"(?:do not|don't|dont|no time to) (?:wait|waste|delay)"),
    Cue("urgency", 3, r"not a (?:moment|minute|second) to (?:lose|waste)"),
    Cue("low", 2, r"(?:can|could|may) (?:easily |safely |well |happily )?wait"),
    Cue("low", 3, r"(?:no|without any|without|zero) (?:real |particular |big |great |time )?(?:rush|hurry|urgency|pressure|stress)"),
    Cue("low", 3, r"(?:no|without|without any) (?:hard |fixed |real |particular )?(?:deadline|due date)"),
    Cue("low", 3, r"no need to (?:hurry|rush|stress|drop)"),
    Cue("low", 3, r"in no (?:hurry|rush|way (?:urgent|critical|important))"),
    Cue("low", 3, r"(?:any ?time|any day) (?:is fine|this (?:year|month|quarter)|works|will do|you like)"),
    Cue("low", 3, r"far from (?:urgent|critical|important)"),
    # -- said outright
    Cue("urgency", 3, r"(?:urgent(?:ly)?|urgentt|urgnt(?:ly)?|urgant|ugent(?:ly)?|urgend)"),
    Cue("urgency", 3, r"(?:asap|a\.s\.a\.p\.?|asapp|as soon as (?:possible|you can|humanly possible)|as quickly as possible|as fast as possible)"),
    Cue("urgency", 3, r"(?:immediate(?:ly)?|imm?ediatl?e?ly|imediate(?:ly)?|instantly)"),
    Cue("urgency", 3, r"(?:at once|right away|rightaway|right now|straight ?away|this (?:very )?(?:minute|second|instant)|without (?:any )?(?:further )?delay)"),
    Cue("urgency", 3, r"(?:drop (?:everything|whatever)|all hands(?: on deck)?|first thing(?: in the morning)?|before anything else|stop (?:everything|what you))"),
    Cue("urgency", 3, r"(?:top|high|highest|max(?:imum)?|utmost|absolute|number one) (?:priority|prio|importance)"),
    Cue("urgency", 3, r"(?:prio(?:rity)?[ :]*(?:1|0|one|high)|p[01]|sev(?:erity)?[- ]?[01]|code red|red alert)"),
    Cue("urgency", 3, r"(?:emergency|emergencies|emergancy|mayday|sos)"),
    Cue("urgency", 3, r"(?:time|safety|mission|business)[- ](?:critical|sensitive)"),
    Cue("urgency", 3, r"(?:critical(?:ly)?|critcal|show-?stopper|make or break)"),
    Cue("urgency", 3, r"(?:hot-?fix|blocker|stat|pronto|hurry(?: up)?|escalat(?:ion|ed|es)|pressing)"),
    Cue("urgency", 2, r"(?:quick(?:ly)? please|be quick|need (?:it|this|them|these|someone|somebody|help|a \w+) (?:right )?now|do (?:it|this) now|\w+ (?:it|them) now)"),
    Cue("urgency", 2, r"(?:the sooner the better|cannot be postponed|can't be postponed|every (?:minute|second|hour) (?:counts|costs|matters))"),
    # -- time
    Cue("deadline", 3, r"(?:overdue|past due|final (?:notice|reminder|warning)|last (?:day|chance|call)|running out of time|clock is ticking)"),
    Cue("deadline", 3, rf"(?:by|before|until|till|til|latest|due|no later than|not later than|expires?|ends?|closes?) (?:on )?(?:the )?(?:end of (?:the |this )?(?:day|business)|eod|cob|close of business|tonight|today|{_TOMORROW}|lunch|lunchtime)"),
    Cue("deadline", 3, r"(?:eod|end of (?:the )?day|end of business|close of business)"),
    Cue("deadline", 3, rf"(?:by|before|until|till|at|from) {_CLOCK} (?:today|tonight|{_TOMORROW}|this {_PART})"),
    Cue("deadline", 2, rf"(?:by|before|until|till|no later than|latest) {_CLOCK}"),
    Cue("deadline", 3, rf"(?:in|within) (?:the )?(?:next |about |less than |under )?{_SOON} (?:minutes?|mins?|hours?|hrs?|h)"),
    Cue("deadline", 3, rf"(?:today|tonight|{_TOMORROW})(?:'s)? (?:at (?:the )?latest|{_PART}|by {_CLOCK}|at {_CLOCK}|{_CLOCK})"),
    Cue("deadline", 3, rf"(?:it's|its|is|due|still|must|has to|done|out|only) (?:\w+ ){{0,2}}(?:today|tonight|{_TOMORROW})"),
    Cue("deadline", 2, rf"(?:tonight|today|{_TOMORROW}|this afternoon|this evening|later today)(?:'s)?"),
    Cue("deadline", 2, r"(?:before|for|until|by) (?:the |her |his |their )?[\w ]{0,24}this (?:morning|noon)"),
    Cue("deadline", 2, r"(?:any (?:minute|moment|second) now|about to (?:miss|leave|fail|collapse|run out|burst|expire|lose)|expired last night|already late|running late|too late)"),
    # -- something is going wrong
    Cue("incident", 3, rf"{_SYSTEM} (?:is|are|has been|have been|keeps?|went|goes|seems?|still|completely|totally|just|again| )+(?:going )?{_BROKEN}"),
    Cue("incident", 3, rf"{_SYSTEM} (?:{_BROKEN}|outage)"),
    Cue("incident", 3, r"(?:outage|black-?out|meltdown)"),
    Cue("incident", 3, rf"{_SYSTEM} (?:is |are |keeps? |has been )?(?:refus\w+|crash\w+|timing out|times? out|failing|hang(?:s|ing)|stuck)"),
    Cue("incident", 3, rf"(?:{_UTILITY}) (?:is|are|has been|went|just|still|again| )*(?:out|down|off|gone|cut|broken)"),
    Cue("incident", 3, rf"{_PEOPLE} (?:still |also |now |currently )?(?:{_NOT}|don't|aren't able to) (?:\w+ )?(?:pay|work|log|login|sign|order|access|continue|ship|use|check|open|get|reach|do|start|call|present|buy|enter|breathe|sell|print|book|proceed|leave)"),
    Cue("incident", 3, rf"(?:nobody|no one|no-one|none of \w+)(?: \w+){{0,4}} (?:can|is able to) (?:\w+ )?(?:pay|work|log|login|sign|order|access|continue|ship|use|get|reach|do|start|call|buy|enter|sell|print|book|proceed)"),
    Cue("incident", 2, rf"(?:{_NOT}) (?:ship|release|deploy|operate|continue|work|log in|proceed|sell|take orders)"),
    Cue("incident", 3, r"(?:crash(?:es|ing)?|fail(?:s|ing)?|broken|down) (?:on startup |completely )?for (?:everyone|everybody|all(?: \w+)?)"),
    Cue("incident", 2, r"(?:is|are|been|am|im|\w+'(?:s|re|m)) (?:\w+ )?(?:blocked|blocking|stuck|locked out|stranded|paralysed|paralyzed|at a standstill|standing still|trapped)"),
    Cue("incident", 2, r"(?:blocks? (?:us|everyone|everybody|all|the (?:whole |entire )?(?:team|release|launch|line|site|customers?))|unblock)"),
    Cue("incident", 2, r"(?:is|are) (?:all |both |already |still )?waiting(?: (?:for|on) (?:it|this|us|me|them))?"),
    Cue("incident", 3, r"(?:data|work|files?|records?|orders?|parcels?|messages?) (?:is|are|gets?|getting|being|been|keeps?|keep)(?: being| getting| \w+ly)? (?:lost|deleted|destroyed|corrupted|overwritten|wiped|missing|lost)"),
    Cue("incident", 3, r"(?:data[- ]loss|data corruption|memory corruption|los(?:e|es|ing) (?:data|money|orders|leads|customers|everything|sales|revenue|by default))"),
    Cue("incident", 2, r"(?:we|they|i|she|he|you) (?:lose|miss|run out|ran out|forfeit|drop)"),
    Cue("incident", 3, r"(?:flood(?:s|ing|ed)|burst(?:ing)?|leaking|gas (?:smell|leak)|smell(?:s)? (?:of )?(?:gas|smoke|burning)|smoke (?:in|from|comes|coming)|on fire|sparks|water (?:is )?(?:coming|running|dripping|pouring))"),
    Cue("incident", 3, r"(?:hazard|danger(?:ous)?(?! goods)|life[- ]threatening|unsafe|risk of (?:injury|collapse|fire|death|fall\w*)|gets? (?:hurt|injured|killed)|bleeding|unconscious|chest pain|collaps(?:ed|ing))"),
    Cue("incident", 2, r"(?:alarm(?:s)?|(?:will |is going to |going to )spoil|warming up|double (?:the )?dose|wrong dose|allergic)"),
    Cue("incident", 2, r"(?:memory|disk|queue|tank|battery|stock|oxygen|insulin)(?: \w+){0,3} (?:growing fast|running out|full|almost empty|nearly empty|critically low)"),
    # -- harm that stays urgent however it is told
    Cue("harm", 3, r"(?:hacked|ransomware|data breach|security breach|breached|data leak|leaked|(?:actively |being )?exploited|compromised|phish(?:ed|ing)|malware|intruders?|intrusion|break-in|zero[- ]day|0day|rce)"),
    Cue("harm", 3, r"(?:fraud(?:ulent)?|stolen|double[- ]charged|charged (?:twice|three times|double)|nobody made)"),
    Cue("harm", 3, r"(?:security (?:patch|fix|hole|incident|vulnerability|issue)|vulnerable|vulnerability|cve-\d+(?:-\d+)?)"),
    Cue("harm", 3, r"(?:visible to other|other (?:users|customers|tenants|people|patients)'?s? (?:data|sessions?|invoices|records|files|orders))"),
    Cue("harm", 3, r"(?:recall|contempt of court|litigation hold|injunction|court order|subpoena|cease and desist|evict(?:ed|ion)|hard deadline|regulator(?:y)? deadline|penalt(?:y|ies) (?:is|of|are|applies))"),
    Cue("harm", 2, r"(?:threaten(?:s|ing|ed)|going to the press|1-star|one-star|furious|wrong (?:patient|medication|blood)|glass fragments|contaminated|(?:cut|cuts|cutting) us off|under minimum|get hurt)"),
    Cue("harm", 1, r"(?:!!+|pls pls|deadline|ugh|on-call)"),
    # -- said outright: it is not
    Cue("low", 3, r"(?:nice[- ]to[- ]have|nice2have|good to have)"),
    Cue("low", 3, r"(?:low(?:est)?|lo|minimal|p[345])(?:[- ](?:priority|prio))"),
    Cue("low", 3, r"(?:prio(?:rity)?[ :]*(?:3|4|5|low)|p[345])"),
    Cue("low", 3, r"(?:some ?day|one (?:fine )?day|at some (?:point|stage)|some ?time (?:in the future|later|next year|soon-ish)|in the (?:distant )?future|down the (?:road|line)|sooner or later|eventually|one of these days)"),
    Cue("low", 3, r"(?:whenever|whenver|when ?ever)(?: \w+){0,3}"),
    Cue("low", 3, r"(?:if|when|once|should) (?:\w+ ){0,2}(?:find|finds|have|has|get|gets|got|is|there's|there is|are)(?: ever)? (?:some |a |any |the |a bit of |a little |enough |spare |free |nothing |time )*(?:time|quiet|moment|minute|else|bored|capacity|spare|mood|slow day)(?: to (?:spare|kill))?"),
    Cue("low", 3, r"(?:(?:if|when|as) (?:time|schedule|budget|capacity) (?:permits|allows|is left)|if there'?s (?:any )?(?:time|budget|room|money)(?: left)?|time permitting)"),
    Cue("low", 3, r"(?:when|once) (?:things|it|life|work|everything) (?:calm|slow|quiet|settle|get)(?:s|ens)?(?: \w+)? ?(?:down|quieter|calmer)?"),
    Cue("low", 3, r"(?:if|only if|unless) (?:you|anyone|anybody|someone|somebody|u)(?:'re| are)? (?:feels? like|want|wants|like|likes|fancy|fancies|bored|is bored|cares?|busy|in the mood|happen)"),
    Cue("low", 3, r"(?:in|for) (?:your|my|our|a) (?:spare|free|own|quiet) (?:time|moment|hour|minute)"),
    Cue("low", 3, r"(?:spare[- ]time|when bored|out of boredom|at (?:your|my|our) (?:leisure|convenience)|(?:in|at) (?:your|its) own (?:pace|time)|rainy (?:day|afternoon|sunday)|quiet (?:day|afternoon|week|moment|hour))"),
    Cue("low", 3, r"(?:takes? (?:your|as long as)|as and when|any ?time|all the time in the world|plenty of time|lots of time|ages away|long way off|(?:a )?long time (?:off|away))"),
    Cue("low", 3, r"(?:optional(?:ly)?|wish ?list|wishlist|bucket list|back-?log|ice ?box|parking lot|parking it|shower thought)"),
    Cue("low", 3, r"(?:trivial|cosmetic(?:s|ally)?|unimportant|negligible|nit|nitpick|nit-pick|bike-?shed\w*|vanity|gimmick|superficial)"),
    Cue("low", 3, r"(?:for fun|just for fun|for the fun of it|would be (?:\w+ )?fun|might be fun|fun (?:project|idea|side project)|side project|hobby|pet project)"),
    Cue("low", 3, r"(?:just|only|purely|merely) (?:an? (?:idea|thought|suggestion)|curious|for inspiration|out of (?:curiosity|interest)|thinking (?:aloud|out loud)|bugs me|a detail|dreaming|collecting)"),
    Cue("low", 3, r"(?:would|might|could|'d) (?:also |just |really |perhaps |maybe )?be (?:\w+ )?(?:nice|cool|neat|fun|great|lovely|handy|sweet|cute|a bonus|an improvement|nicer|prettier|friendlier|neater)(?: to have)?"),
    Cue("low", 2, r"(?:maybe|mabye|perhaps|possibly|mayhap|potentially)"),
    Cue("low", 2, r"(?:idea|thought|suggestion|brainstorm|bookmark|minor|someday/maybe)(?=\s*:)"),
    Cue("low", 2, r"(?:consider|ponder|think about|thinking about|thinking of|toy with|play (?:around )?with|experiment with|dream(?:ing)? (?:of|about|a bit)|wonder(?:ing)? (?:if|whether)|curious|look into whether|explore (?:whether|if)|check out)"),
    Cue("low", 2, r"(?:feel free to|no decision needed|for later|not needed yet|long[- ]term|just in case|in case you(?:'re| are| happen)|skip (?:it|this)|ignore (?:it|this))"),
    Cue("low", 2, r"(?:could|one could|we could|could do)(?=\W)(?= (?:be |look )?(?:\w+ ){0,2}(?:nicer|prettier|friendlier|neater|softer|polish|paint|write|have|get))|could do"),
    Cue("low", 2, r"(?:doesn'?t|does not|don't|won't) (?:really )?(?:matter|hurt|bother|mind)(?: (?:when|if|much))?"),
    Cue("low", 2, r"(?:nobody|no one|no-one|nothing|none) (?:\w+ ){0,2}(?:asked|asks|notices|notice|cares|complain(?:s|ed)|waiting|waits|misses|depends|needs|uses|breaks|is blocked|blocked|blocking)"),
    Cue("low", 2, r"(?:tad|a little|slightly|a bit|bit) (?:annoying|ugly|uglier|nicer|prettier|softer|squeaky|dusty|untidy|off|boring|dated|worn|faded)"),
    Cue("low", 2, r"(?:fine|ok|okay|good enough) as (?:it is|they are|is)|postponed indefinitely|not this (?:year|month|quarter)|next (?:year|summer|winter)(?: or so)? (?:maybe|is fine|is ok)|lol|haha|:-?\)"),
    Cue("low", 1, r"(?:prettier|nicer|tidy up|declutter|inspiration|easter egg|tweak|polish|sometime|some time|over the winter|minor (?:thing|detail|issue|nuisance|point|annoyance|glitch|flaw)|neat|interesting|might|fun|ideas)"),
)

# Named, never a cue themselves: what a cue stands before or behind when it is only talked about.
MENTIONED_AFTER: Final = (
    r"[\"'`)\]]?[- ](?:label|labels|button|tag|tags|flag|flags|field|column|queue|status|level|levels|badge|"
    r"icon|filter|tickets?|issues?|tasks|items|mails?|messages|requests|orders|calls|cases|section|list|contacts?|exits?|"
    r"numbers?|page|pages|template|templates|banner|word|words|category|categories|checkbox|option|"
    r"keyword|rooms?|department|stop|switch|lighting|lights|lamps?|kit|drill|plan|plans|procedure|procedures|services|"
    r"generator|supplies|vehicles?|training|manual|priority|style|colou?r|mode|folder|channel|inbox|path|"
    r"thinking|review|mass|infrastructure|form|stairs|staircase|staircases|aid|fund|funds|exit signs|"
    r"prevention|detection|policy|policies|report|reports|handbook|system|panel|clock|bell|test|tests|and important|or not)\b"
)
MENTIONED_BEFORE: Final = (
    r"(?:\b(?:word|words|term|terms|label|labels|tag|tags|called|named|phrase|wording|marked as|button|"
    r"difference between|severity|severities|level|levels|option|options|such as|e\.g\.|headed|titled|"
    r"choice of|values?|status|between)(?: the)?[ :]+(?:\w+, )*[\"'`(]?)$"
)
NEGATED_BEFORE: Final = (
    r"\b(?:not|n't|isnt|arent|wasnt|dont|doesnt|never|nothing|no|nor|neither|hardly|barely|"
    r"by no means|without|less|un)\b(?:\s+(?:at all|so|very|that|really|particularly|super|terribly|"
    r"exactly|an?|the|yet|in|any|more|even|too|overly|is|are|be|being|been|been any|currently|"
    r"actually|here|this|it|on|by|of|need(?:ed)?|to|do|done|happen|have|has|longer|time|way|you))*\s*$"
    r"|n't(?:\s+(?:at all|so|very|that|really|particularly|super|terribly|exactly|an?|yet|any|even|too|"
    r"be|being|been|actually|need(?:ed)?|to|have|it|this|do|be done|on|of))*\s*$"
)
PAST_BEFORE: Final = (
    r"(?:\b(?:was|were|had been|used to be|wasn't|last (?:week|month|year|night|summer|winter|quarter)'?s?|"
    r"yesterday'?s?|monday'?s|tuesday'?s|wednesday'?s|thursday'?s|friday'?s|recent|previous|former|old|"
    r"past|earlier|20[012]\d)(?: \w+){0,2} )$"
)
PAST_AFTER: Final = (
    r"[^.!?\n]{0,40}?\b(?:last (?:week|month|year|quarter|summer|winter|spring|autumn)|yesterday|ago|"
    r"back then|but (?:is |it's |it is |now )?(?:fixed|solved|resolved|over|back|done|fine)|"
    r"(?:is|it's|now|already|all|been|since|got) (?:\w+ )?(?:fixed|solved|resolved|over|back up|"
    r"done|fine|sorted|good|restored|calm))\b"
)
CONDITION_BEFORE: Final = (
    r"\b(?:if|when|whenever|in case(?: of)?|in the event of|how to|what (?:to do|happens)|where|unless|once|"
    r"should|every time|while|during|against|after an?|for an?|prevent(?:s|ing)?|avoid(?:s|ing)?|simulate|"
    r"detect(?:s|ing)?|only)\b[^.!?;:\n]{0,36}$"
)
# A text about such things: writing, teaching or testing, so nothing is happening now.
ABOUT: Final = (
    r"\b(?:post-?mortems?|retros?|retrospective|run-?books?|play-?books?|handbook|trainings?|drills?|lessons learned|"
    r"simulat\w+|exercise|rehears\w+|document(?:ation)?|docs|guide|guidelines|polic(?:y|ies)|glossary|blog post|article|"
    r"slides|talk|workshop|course|lecture|quiz|statistics|chart|dashboard|alert (?:rule|for|that|when)|"
    r"an alert|monitoring|test plan|unit tests?|tests? for|checklist|essay|history of|novel|film)\b"
)
FAR: Final = (
    r"\b(?:by|before|until|till|in|for|at|from) (?:the )?(?:end of |start of |beginning of |middle of |early |late )*"
    r"(?:(?:the|this|next|coming|following) (?:week|month|quarter|year|season|spring|summer|autumn|fall|"
    r"winter)|january|february|march|april|may|june|july|august|september|october|november|december|q[1-4])\b"
)

"""Wording that tells how urgent a task is: English in lower case, with common typos.

Each cue is a regular expression that starts and ends at a word boundary. Where two match at the same place the earlier
one wins, so a phrase comes before the words it contains. Weight 3 is explicit, 2 is enough alone, 1 only adds to others.
"""

# Word lists are easier to read in one line each.
# ruff: noqa: E501

from __future__ import annotations

from typing import Final, Literal, NamedTuple

# `urgency` is about the task, `deadline` about time, `incident` about something that goes wrong now. `harm` is an incident
# that counts in the past tense too. `low` speaks against urgency.
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
    r"doctors|workers|crew|residents|visitors|subscribers|members|everyone|everybody|they|she|he|we|i|"
    r"half the \w+|all of \w+|the (?:whole |entire )?(?:team|floor|office|crew|company|ward|site|shop|store))"
)
_SYSTEM = (
    r"(?:site|website|web ?shop|shop|store|server|servers|service|system|api|app|database|db|prod|"
    r"production|checkout|network|internet|wi-?fi|vpn|e-?mail|mail|phones?|login|logins|payments?|"
    r"cluster|platform|gateway|intranet|portal|line|backend|till|tills|pos|terminal|website form)"
)
_BROKEN = (
    r"(?:down|offline|unreachable|unavailable|dead|on fire|out|broken|not responding|not reachable)"
)
_UTILITY = r"(?:power|electricity|heating|water|gas|oxygen|light|lights|air ?con|cooling|ventilation|elevator|lift)"

# fmt: off
CUES: Final[tuple[Cue, ...]] = (
    # -- phrases that contain words of the opposite urgency
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
    Cue("urgency", 3, r"(?:not a drill|this is (?:serious|real)|before (?:anything|everything) else|over everything else|ahead of everything|priorit(?:ise|ize) this|jump the queue)"),
    Cue("low", 3, r"(?:no one|nobody|no-one|none of us) (?:will |would |is going to )?(?:die|dies|be hurt|miss it|mind)|(?:don't|do not|no need to) (?:lose (?:any )?sleep|sweat it|bother if|worry about it)"),
    Cue("low", 3, r"(?:run|ran|running) out of (?:things|work|stuff|tasks|tickets)(?: to do)?|nothing (?:better|else|more important|urgent) to do|(?:slow|boring|idle|lazy) (?:day|week|afternoon|friday|sunday)"),
    Cue("low", 3, r"(?:no big deal|no biggie|not a big deal|no drama|low[- ]stakes|no harm (?:done )?if|not any ?time soon|not now|not before (?:next|spring|summer|autumn|winter)|deadline\? (?:none|no|nah|nope))"),
    Cue("deadline", 0, r"right now (?:we|it|they|the|there|this|our|you|i|everything|all)"),
    Cue("deadline", 0, r"(?:today|yesterday|tomorrow)'s (?:minutes|notes|figures|numbers|menu|report|readings|results|photos|receipts|entries|post|orders|news|lesson|leftovers)"),
    Cue("low", 3, r"(?:not|\w+n't)(?: \w+){0,3} any ?time soon"),
    Cue("low", 3, r"no need to (?:\w+ ){1,4}(?:now|yet|today|tomorrow|this (?:week|month))"),
    Cue("low", 3, r"(?:not|\w+n't)(?: really)? (?:a|my|our|the|any|of) (?:\w+ )?priority"),
    Cue("low", 2, r"not (?:really |strictly |exactly |actually )?(?:needed|required|necessary|essential)(?! any ?more)"),
    Cue("low", 3, r"(?:only )?if (?:you|anyone|anybody|someone|somebody|u)(?:'re| are| is|'s) (?:\w+ )?(?:keen|interested|curious|up for \w+|bored|free|in town|around|idle)"),
    # -- explicitly urgent
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
    Cue("urgency", 3, r"(?:cris(?:is|es)|catastroph\w+|life[- ](?:or|and)[- ]death|code blue|matter of (?:urgency|hours|minutes|life)|needed yesterday|(?:need|want)(?:ed|s)? (?:it|this|that) (?:like )?yesterday|before it'?s too late|sla (?:breach|violation))"),
    Cue("urgency", 2, r"(?:crucial|vital|imperative|paramount|indispensable|desperate(?:ly)?|dire|severe(?:ly)?|promptly|swiftly|expedite|soonest|in a (?:real |great |big )?(?:hurry|rush)|rush (?:job|order|delivery)|roll ?back|help(?=!)|now(?=,? please|!|,? or ))"),
    Cue("urgency", 1, r"(?:(?:very |super |really |extremely |particularly )?important|essential|must[- ]have|a must|serious(?:ly)?|necessary|(?:turn|shut|switch|pull|take|stop|pause|swap|secure) it(?: (?:off|down|offline|out))?)"),
    Cue("urgency", 2, r"(?:look at|do|handle|fix|see|take|read|check|answer) (?:this|it|that)(?: one)? first|first of all|now or never|comes? first"),
    # -- time
    Cue("deadline", 3, r"(?:overdue|past due|final (?:notice|reminder|warning)|last (?:day|chance|call)|running out of time|clock is ticking)"),
    Cue("deadline", 3, rf"(?:by|before|until|till|til|latest|due|no later than|not later than|expires?|ends?|closes?) (?:on )?(?:the )?(?:end of (?:the |this )?(?:day|business)|eod|cob|close of business|tonight|today|{_TOMORROW}|lunch|lunchtime)"),
    Cue("deadline", 3, rf"(?:cut-?off|deadline|closing time|latest)(?: time)?(?: is| at| was|:)* (?:at )?(?:{_CLOCK}|today|tonight|{_TOMORROW})"),
    Cue("deadline", 3, r"(?:eod|end of (?:the )?day|end of business|close of business)"),
    Cue("deadline", 3, rf"(?:by|before|until|till|at|from) {_CLOCK} (?:today|tonight|{_TOMORROW}|this {_PART})"),
    Cue("deadline", 2, rf"(?:by|before|until|till|no later than|latest) {_CLOCK}"),
    Cue("deadline", 3, rf"(?:in|within) (?:the )?(?:next |about |less than |under )?{_SOON} (?:minutes?|mins?|hours?|hrs?|h)"),
    Cue("deadline", 3, rf"(?:today|tonight|{_TOMORROW})(?:'s)? (?:at (?:the )?latest|{_PART}|by {_CLOCK}|at {_CLOCK}|{_CLOCK})"),
    Cue("deadline", 3, rf"(?:it's|its|is|due|still|must|has to|done|out|only) (?:\w+ ){{0,2}}(?:today|tonight|{_TOMORROW})"),
    Cue("deadline", 2, rf"(?:tonight|today|{_TOMORROW}|this afternoon|this evening|later today)(?:'s)?"),
    Cue("deadline", 2, r"(?:before|for|until|by) (?:the |her |his |their )?[\w ]{0,24}this (?:morning|noon)"),
    Cue("deadline", 2, r"(?:any (?:minute|moment|second) now|about to (?:miss|leave|fail|collapse|run out|burst|expire|lose)|expired last night|already late|running late|too late)"),
    Cue("deadline", 2, r"(?:by|before|until|till) (?:[1-9]|1[0-2])(?= *(?:[,.!?;)]|$|or |they |we |he |she |it |otherwise|sharp|latest|at ))"),
    Cue("deadline", 2, r"(?:boarding|boards|(?:train|bus|plane|flight|ferry|taxi|truck|courier|driver|doors|show|ceremony|meeting|demo|call|inspection|surgery|hearing|interview|shift) (?:leaves|starts|begins|opens?|departs|is|goes|arrives|comes)) (?:in|at|soon|any|today|tomorrow|within)"),
    Cue("deadline", 2, r"(?:is|are|'s|has|have|already|just) (?:already |just |now )?(?:(?:here|waiting|standing|sitting) (?:now|at|in|outside|on)|at the (?:door|gate|counter|reception)|on the (?:phone|line)|on (?:her|his|their) way|on site|walked in|outside)|\w+ (?:is|are) (?:already )?(?:here|waiting)"),
    Cue("deadline", 1, r"(?:starts?|opens?|arrives?|leaves?|begins?|closes?) (?:at|in) \d+(?:[:.]\d\d)?(?! ?(?:min|hour|hr|day|week|month|year))"),
    Cue("deadline", 1, r"(?:(?:is|are|has|have)(?:n't| not) (?:\w+ )?yet|still (?:not|isn't|aren't|hasn't|haven't|missing|no|nothing|nobody|without|waiting|open)|since (?:this )?(?:morning|last night|yesterday|an hour|midnight|noon|\d{1,2}(?::\d\d)?)|(?:an hour|minutes|\w+ minutes) ago)"),
    # -- something is going wrong
    Cue("incident", 3, r"(?:deleted|dropped|wiped|overwrote|overwritten|erased|formatted|truncated|lost) (?:the |our |all |all the |all our |the whole |the entire )?(?:prod(?:uction)?|live|customers?|master|main|only|wrong|payroll|patient) (?:\w+)"),
    Cue("incident", 3, r"(?:fell|fallen|slipped|fainted|choking|seizure|not breathing|injured|isn't (?:getting up|responding|breathing|moving)|hurt (?:himself|herself|themselves|badly)|(?:person|persons|people|child|kid|man|woman|someone|somebody|passengers?) (?:\w+ )?(?:inside|trapped|stuck|missing|bleeding|lost))"),
    Cue("incident", 3, r"(?:bleeding|burning|losing|hemorrhaging|haemorrhaging|costs? us|costing us|lost us) (?:\w+ )?(?:money|cash|customers|orders|leads|sales|thousands|a fortune|blood|data)"),
    Cue("incident", 2, r"(?:refus(?:es|ed|ing)|threaten(?:s|ing)?) to|(?:go|going|goes|switch|switching|walk) (?:to (?:someone else|somebody else|a competitor|the competition|the press|court)|away)|lose (?:the|this|that|our|him|her|them)|(?:cancel|cancels|cancelling|pull|pulls) (?:the|their) (?:contract|order|deal|account)"),
    Cue("incident", 2, r"(?:(?:and|keeps?|still|is|fast) (?:rising|climbing|dropping fast|falling fast|spreading|growing fast|sinking))|through the (?:ceiling|roof|floor|wall)|live wires?|exposed (?:wires?|cables?)|coming (?:loose|down|off) (?:above|over|onto|on)|(?:loose|cracked|leaning|hanging) (?:above|over|onto)"),
    Cue("incident", 2, r"(?:stuck|jammed|blocked|trapped) (?:half ?way|between|in the middle|open|inside)|(?:double|twice)[- ]?(?:booked|billed|paid|charged|sent)"),
    Cue("incident", 3, rf"{_SYSTEM} (?:is|are|has been|have been|keeps?|went|goes|seems?|still|completely|totally|just|again| )+(?:going )?{_BROKEN}"),
    Cue("incident", 3, rf"{_SYSTEM} (?:{_BROKEN}|outage)"),
    Cue("incident", 3, r"(?:outage|black-?out|meltdown)"),
    Cue("incident", 3, rf"{_SYSTEM} (?:is |are |keeps? |has been )?(?:refus\w+|crash\w+|timing out|times? out|failing|hang(?:s|ing)|stuck)"),
    Cue("incident", 3, rf"(?:{_UTILITY}) (?:is|are|has been|went|just|still|again| )*(?:out|down|off|gone|cut|broken)"),
    Cue("incident", 3, rf"{_PEOPLE} (?:still |also |now |currently )?(?:{_NOT}|don't|aren't able to) (?:\w+ )?(?:pay|work|log|login|sign|order|access|continue|ship|use|check|open|get|reach|do|start|call|present|buy|enter|breathe|sell|print|book|proceed|leave|answer|serve|deliver|reply|help|send|receive|treat|operate|cook|teach|travel|park|upload|download|save)"),
    Cue("incident", 3, r"(?:nobody|no one|no-one|none of \w+)(?: \w+){0,4} (?:can|is able to) (?:\w+ )?(?:pay|work|log|login|sign|order|access|continue|ship|use|get|reach|do|start|call|buy|enter|sell|print|book|proceed)"),
    Cue("incident", 2, rf"(?:{_NOT}) (?:ship|release|deploy|operate|continue|work|log in|proceed|sell|take orders)"),
    Cue("incident", 3, r"(?:crash(?:es|ing)?|fail(?:s|ing)?|broken|down) (?:on startup |completely )?for (?:everyone|everybody|all(?: \w+)?)"),
    Cue("incident", 2, r"(?:is|are|been|am|im|\w+'(?:s|re|m)) (?:\w+ )?(?:blocked|blocking|stuck|locked out|stranded|paralysed|paralyzed|at a standstill|standing still|trapped)"),
    Cue("incident", 2, r"(?:blocks? (?:us|everyone|everybody|all|the (?:whole |entire )?(?:team|release|launch|line|site|customers?))|unblock)"),
    Cue("incident", 2, r"(?:is|are) (?:all |both |already |still )?waiting(?: (?:for|on) (?:it|this|us|me|them))?"),
    Cue("incident", 3, r"(?:data|work|files?|records?|orders?|parcels?|messages?) (?:is|are|gets?|getting|being|been|keeps?|keep)(?: being| getting| \w+ly)? (?:lost|deleted|destroyed|corrupted|overwritten|wiped|missing|lost)"),
    Cue("incident", 3, r"(?:data[- ]loss|data corruption|memory corruption|los(?:e|es|ing) (?:data|money|orders|leads|customers|everything|sales|revenue|by default))"),
    Cue("incident", 2, r"(?:we|they|i|she|he|you) (?:lose|miss|run out|ran out|forfeit|drop)"),
    Cue("incident", 3, r"(?:flood(?:s|ing|ed)|explo(?:ded|sion|ding)|blew up|caught fire|short circuit|electric shock|carbon monoxide|burst(?:ing)?|leaking|gas (?:smell|leak)|smell(?:s)? (?:of )?(?:gas|smoke|burning)|smoke (?:in|from|comes|coming)|on fire|sparks|water (?:is )?(?:coming|running|dripping|pouring))"),
    Cue("incident", 3, r"(?:hazard|danger(?:ous)?(?! goods)|life[- ]threatening|unsafe|risk of (?:injury|collapse|fire|death|fall\w*)|gets? (?:hurt|injured|killed)|bleeding|unconscious|chest pain|collaps(?:ed|ing))"),
    Cue("incident", 2, r"(?:alarm(?:s)?|(?:will |is going to |going to )spoil|warming up|double (?:the )?dose|wrong dose|allergic)"),
    Cue("incident", 2, r"(?:memory|disk|queue|tank|battery|stock|oxygen|insulin)(?: \w+){0,3} (?:growing fast|running out|full|almost empty|nearly empty|critically low)"),
    Cue("incident", 2, r"(?:vanished|disappeared|gone missing|no (?:orders|calls|payments|mails|messages|data|signal|water|oxygen|pulse)(?: are| is)? (?:coming in|arriving|going out|coming through|left)|going off|went off|left the (?:gas|stove|oven|tap|water|iron) on)"),
    Cue("incident", 2, r"(?:overflow(?:s|ed|ing)?|running (?:into|down|through)|seeping|spilling|deteriorat\w+|(?:getting|growing|becoming) (?:worse|bigger|larger|wider|longer|deeper|louder|hotter)(?: \w+)?|worsening|spread(?:s|ing)|about to \w+|locked out|(?:customers|clients|users|patients|guests|parents) (?:are |keep )?(?:complain\w*|angry|furious|shouting|leaving|cancelling)|filling up(?: \w+)?|(?:at|over|above|reached) (?:9\d|100) ?(?:%|percent))"),
    Cue("incident", 3, r"(?:logged in as (?:someone|somebody|another|other|each)(?: \w+)?|(?:unknown|strange|foreign|suspicious) (?:country|device|logins?|transactions?|ip|person|man|package|charges?)|(?:sent|mailed|e-?mailed|forwarded|published|exposed) [^.!?\n]{0,40}?to (?:the )?(?:all-staff|all staff|wrong|whole company|everyone|everybody|public))"),
    # -- harm that stays urgent in any tense
    Cue("harm", 3, r"(?:hacked|ransomware|data breach|security breach|breached|data leak|leaked|(?:actively |being )?exploited|compromised|phish(?:ed|ing)|malware|intruders?|intrusion|break-in|hijack(?:ed|ing)?|spoofed|impersonat\w+|skimm(?:ed|ing|er)|blackmail\w*|zero[- ]day|0day|rce)"),
    Cue("harm", 3, r"(?:fraud(?:ulent)?|stolen|double[- ]charged|charged (?:twice|three times|double)|nobody made)"),
    Cue("harm", 3, r"(?:security (?:patch|fix|hole|incident|vulnerability|issue)|vulnerable|vulnerability|cve-\d+(?:-\d+)?)"),
    Cue("harm", 3, r"(?:visible to other|other (?:users|customers|tenants|people|patients)'?s? (?:data|sessions?|invoices|records|files|orders))"),
    Cue("harm", 3, r"(?:recall|contempt of court|litigation hold|injunction|court order|subpoena|cease and desist|evict(?:ed|ion)|hard deadline|regulator(?:y)? deadline|penalt(?:y|ies) (?:is|of|are|applies))"),
    Cue("harm", 2, r"(?:threatening|threatened|going to the press|1-star|one-star|furious|wrong (?:patient|medication|medicine|blood|leg|dose|drug|recipients?|account)(?: \w+)?|(?:someone|somebody) else\'s (?:results?|data|invoices?|records?|account|files|details|prescription|medication)|glass fragments|contaminated|(?:cut|cuts|cutting) us off|under minimum|get hurt)"),
    Cue("incident", 1, r"(?:(?:have|has|had|'ve|'s) (?:given up|died|packed up|stopped working|broken down|failed|gone|crashed|frozen)|gave up|broke down|stopped working|quit working|packed up|conked out|not working|(?:doesn't|does not|don't|won't|isn't|aren't|didn't) (?:work|start|open|load|respond|close|arrive|come up|boot|working|answer|answering|responding)|crash(?:es|ed|ing)?|stopped|revoked|no sound|no picture|no signal|no power|aborted|denied|rejects?|rejected|frozen|jammed|idle|broken|failing|errors?|empty page|blank (?:page|screen)|ran out|run out|running low|out of stock|missing|smashed|leaks?|cancelled|collapsed|wrong)"),
    Cue("incident", 1, r"(?:(?:can't|cannot|can not|couldn't) find|again each|again and again|over and over|expired|charges? (?:customers|clients|users|guests) again|before the (?:evening|morning|night|noon|lunch)(?: \w+)?)"),
    Cue("incident", 1, r"(?:every (?:customer|user|visitor|patient|guest|order|call|single|minute)|all (?:our |the |of our |of the )?(?:users|customers|patients|guests|branches|shops|stores|sites|teams|staff|classes|rooms|lines|orders|three|four|five)|(?:the )?whole (?:floor|team|company|warehouse|building|ward|site|street|shift|class|school|crew|office|line)|half (?:of )?(?:the|our) \w+|everyone|everybody|nobody|queue (?:reaches|is out|goes)|piling up|customers|people are (?:watching|waiting)|complaining)"),
    Cue("harm", 1, r"(?:!!+|pls pls|deadline|ugh|on-call)"),
    # -- explicitly not urgent
    Cue("low", 3, r"(?:nice[- ]to[- ]have|nice2have|good to have)"),
    Cue("low", 3, r"(?:low(?:est)?|lo|little|minimal|no great|p[345])(?:[- ](?:priority|prio|importance|relevance|impact|stakes|urgency))|(?:small|little|humble|secret|silly) wish"),
    Cue("low", 3, r"(?:prio(?:rity)?[ :]*(?:3|4|5|low)|p[345])"),
    Cue("low", 3, r"(?:some ?day|one (?:fine )?day|at some (?:point|stage)|some ?time (?:in the future|later|next year|soon-ish)|in the (?:distant )?future|down the (?:road|line)|sooner or later|eventually|one of these days)"),
    Cue("low", 3, r"(?:whenever|whenver|when ?ever)(?: \w+){0,3}"),
    Cue("low", 3, r"(?:if|when|once|should) (?:\w+ ){0,2}(?:find|finds|have|has|get|gets|got|is|there's|there is|are)(?: ever)? (?:some |a |any |the |a bit of |a little |enough |spare |free |nothing |time )*(?:time|quiet|moment|minute|else|bored|capacity|spare|mood|slow day)(?: to (?:spare|kill))?"),
    Cue("low", 3, r"(?:(?:if|when|once) there(?:'s| is| are| will be)(?: \w+)? (?:time|budget|money|room|interest|capacity|nothing|space|leftovers?)|(?:can|could|may) stay|(?:if|when|as) (?:time|schedule|budget|capacity) (?:permits|allows|is left)|if there'?s (?:any )?(?:time|budget|room|money)(?: left)?|time permitting)"),
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
    Cue("low", 3, r"(?:stretch goal|later (?:version|release|iteration)|v2|bottom of (?:the|my|our|your) (?:pile|heap|backlog|(?:to-?do |priority )?list|stack)|back ?burner|last on (?:the|my|our|your) list|one for the future|gold[- ]plating|after everything else|food for thought|pie in the sky|blue[- ]sky|daydream\w*|pipe dream)"),
    Cue("low", 3, r"(?:makes? (?:no|little) difference|wouldn't hurt|won't hurt|can'?t hurt|live without (?:it|them|one)|pointless|frivolous|silly|luxury|icing on the cake|cherry on top|overrated|overkill|a bonus|aesthetics?|purely (?:decorative|visual|for looks)|looks only|for looks|scratched|hell freezes(?: over)?|pigs fly|once we're rich)"),
    Cue("low", 3, r"(?:mood (?:strikes|takes)|in the mood|toying with|because why not|why not(?=\?)|for the (?:heck|hell) of it|just because|only worth|reading material|something to read|guilty pleasure|(?:next year|spring|summer|winter|autumn) or (?:the (?:year|one) after|later|so)|in a (?:year|couple of years|few years|year or two)|(?:when|once|after) (?:the )?(?:dust settles|busy season|season|rush is over|holidays|high season|summer|winter|christmas|launch|move))"),
    Cue("low", 2, r"(?:(?:still |it |they |all )?works? (?:perfectly|fine|ok|well enough|just fine|anyway)|(?:do|does|doing) the job|still (?:fine|ok|okay|usable|good|works|work)|good enough|nothing wrong with|i'd (?:love|like|enjoy) (?:to see|to have|it|a)|could do with|(?:should|if) we ever|if (?:ever|anyone ever)|park(?:ing|ed)? (?:it|this|the \w+(?: \w+)?) here|remind me (?:in|next|after) (?:spring|summer|autumn|fall|winter|year|the holidays|a few months))"),
    Cue("low", 3, r"(?:(?:it|that|this)'d be (?:\w+ )?(?:nice|cool|neat|fun|great|lovely|handy|sweet|cute)|wouldn't mind|(?:on|to) the side|low[- ]key|for (?:a laugh|laughs|giggles|kicks)|just as well|next (?:year|summer|winter|season) (?:too|instead|or later|at the earliest)|anyone (?:be )?up for|be up for|any takers|who fanc(?:y|ies)|no worries if|if it'?s (?:easy|not too much(?: \w+)?)|if easy|pet peeve|(?:matter|question) of taste|filler(?: task)?|hack ?(?:day|athon)|off[- ]season)"),
    Cue("low", 3, r"(?:(?:slow|quiet|calm|idle|boring|lazy|rainy|dull) (?:days|weeks|months|hours|evenings|afternoons|times?|season|month|evening|shift)|(?:wild|crazy|random|half-baked|small|little|fun|silly|fuzzy|loose|vague) (?:idea|thought|suggestion)s?|(?:just|only) (?:a |an |some )?(?:idea|thought|suggestion|musing)s?|years from now|in (?:\d+|ten|five|a few|some) years|low(?:est)?[- ]effort|leave it open|bugs me|daft|goofy|playful|cute|meh|for the long run)"),
    Cue("low", 2, r"(?:an|one|another) idea"),
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
# fmt: on

# Text next to a cue that shows that the cue is only mentioned, as in "the urgent label".
MENTIONED_AFTER: Final = (
    r"[\"'`)\]]?[- ](?:label|labels|button|tag|tags|flag|flags|field|column|queue|status|level|levels|badge|"
    r"icon|filter|tickets?|issues?|tasks|items|mails?|messages|requests|orders|calls|cases|section|list|contacts?|exits?|"
    r"numbers?|page|pages|template|templates|banner|word|words|category|categories|checkbox|option|"
    r"keyword|rooms?|department|stop|switch|lighting|lights|lamps?|kit|drill|plan|plans|procedure|procedures|services|"
    r"generator|supplies|vehicles?|training|manual|priority|style|colou?r|mode|folder|channel|inbox|path|"
    r"thinking|review|care|path|mass|infrastructure|form|stairs|staircase|staircases|aid|fund|funds|exit signs|"
    r"prevention|detection|policy|policies|report|reports|handbook|system|panel|clock|bell|test|tests|and (?:important|normal|regular|routine)|or not|is (?:spelled|spelt|misspelt|misspelled|banned|a word|translated|written)|patients|release(?= (?:version|form|tablets?)))\b"
)
MENTIONED_BEFORE: Final = (
    r"(?:\b(?:word|words|term|terms|label|labels|tag|tags|called|named|phrase|wording|marked as|button|"
    r"(?:mark|flag|label|classify|rate|tag)\w*(?: \w+){0,3} as|difference between|severity|severities|level|levels|option|options|such as|e\.g\.|headed|titled|marked|rated|classed|flagged|listed as|"
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
INCIDENT_NAMED_AFTER: Final = (
    r"[- ](?:system|clock|bell|codes?|panel|reports?|plans?|drill|policy|procedures?|sensors?|detectors?|"
    r"prevention|protection|insurance|templates?|forms?|training|statistics|page|counter|tests?|logs?|"
    r"history|alerts?|rules?|maps?|simulation|scenarios?|recovery|handling|messages?|codes|checklist)\b"
)
# "Critical? No." answers its own question.
NEGATED_AFTER: Final = (
    r"\?\s*(?:no|nope|nah|not|none|hardly|never)\b"
    r"|\s{1,20}(?:is|are|would be|sounds|seems) (?:overrated|exaggerated|too (?:strong|much)|an overstatement|"
    r"the wrong word|not the (?:right )?word|a strong word)\b"
)
# "Normally I'd say whenever" and "used to be optional" mean the opposite.
LOW_WITHDRAWN: Final = (
    r"\b(?:normally|usually|ordinarily|used to be|was|were|until now|no longer|would (?:normally|usually) be|"
    r"i'd say|would say|forget)\b[^.!?\n]{0,24}$"
)
# "Emergency lamp", "emergency rations": a compound is a thing, not an alarm.
COMPOUND_EMERGENCY: Final = (
    r" (?!in\b|at\b|on\b|here\b|with\b|fix\b|repairs?\b|patch\b|meeting\b|surgery\b|calls?\b|"
    r"shutdown\b|situation\b|maintenance\b|the\b|please\b|is\b|as\b|and\b|for\b|plumber\b|dentist\b|"
    r"doctor\b|order\b|delivery\b|change\b|rollback\b|we\b|our\b|a\b)\w"
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
# Words of tasks about writing, teaching or testing. An incident that such a task names isn't happening now.
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
